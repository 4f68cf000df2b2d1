package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Exit codes. Anything else is a command's own choice, made with WithExitCode.
const (
	Failed      = 1
	Misused     = 2   // unknown command, flag or argument
	Interrupted = 130 // ended by SIGINT or SIGTERM before the work was done
)

// Main runs a binary: run gets a context that ends at the first SIGINT or
// SIGTERM (a second one kills), its error is printed, and the process exits
// with ExitCode of it. Main does not return.
func Main(name string, run func(ctx context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from here on a second signal takes its default effect

	err := run(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = WithExitCode(fmt.Errorf("%s was interrupted", name), Interrupted)
	}
	Print(os.Stderr, err)
	os.Exit(ExitCode(err))
}

// Print writes err as an error: line and, where it carries hints, a hint: line
// each. It writes nothing for nil and for an error with an empty text.
func Print(w io.Writer, err error) {
	if err == nil || err.Error() == "" {
		return
	}
	fmt.Fprintf(w, "error: %s\n", oneLine(err.Error()))
	for _, h := range Hints(err) {
		fmt.Fprintf(w, "hint: %s\n", oneLine(h))
	}
}

// oneLine keeps a message that quotes what others wrote from looking like two
// messages, or from talking to the terminal.
func oneLine(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < 0x20 || r >= 0x7f && r < 0xa0:
			return -1
		}
		return r
	}, s))
}

type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// Hint adds to err what the person can do next: a command, or a few words. The
// error's own text stays as it is. Hint of nil is nil.
func Hint(err error, next string) error {
	if err == nil {
		return nil
	}
	return hinted{err, next}
}

// Otherwise adds a hint to an error that carries none.
func Otherwise(err error, next string) error {
	if len(Hints(err)) > 0 {
		return err
	}
	return Hint(err, next)
}

type rehinted struct {
	error
	hints []string
}

func (r rehinted) Unwrap() error { return r.error }

// MapHints replaces each hint that err carries by what change makes of it.
func MapHints(err error, change func(hint string) string) error {
	hints := Hints(err)
	if len(hints) == 0 {
		return err
	}
	for i, h := range hints {
		hints[i] = change(h)
	}
	return rehinted{err, hints}
}

// Hints returns the hints that err carries, the outermost first.
func Hints(err error) []string {
	var hints []string
	for err != nil {
		if r, ok := err.(rehinted); ok {
			return append(hints, r.hints...)
		}
		if h, ok := err.(hinted); ok {
			hints = append(hints, h.hint)
		}
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				hints = append(hints, Hints(e)...)
			}
			return hints
		}
		err = errors.Unwrap(err)
	}
	return hints
}

type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

// WithExitCode makes the process end with code when err is what Main gets.
// WithExitCode of nil is nil.
func WithExitCode(err error, code int) error {
	if err == nil {
		return nil
	}
	return coded{err, code}
}

// Usage says that the command was used wrongly: exit code Misused.
func Usage(format string, args ...any) error {
	return WithExitCode(fmt.Errorf(format, args...), Misused)
}

// ExitCode is the exit code for what a command returned.
func ExitCode(err error) int {
	var c coded
	switch {
	case err == nil:
		return 0
	case errors.As(err, &c):
		return c.code
	}
	return Failed
}
