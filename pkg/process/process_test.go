package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestPrintsOneErrorLineAndItsHints(t *testing.T) {
	err := fmt.Errorf("joining: %w", Hint(errors.New("no session\non this device\x1b[31m"), "sallyport login"))
	var out strings.Builder
	Print(&out, err)
	if want := "error: joining: no session on this device[31m\nhint: sallyport login\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}

func TestHintsOfJoinedErrorsAreAllThere(t *testing.T) {
	err := errors.Join(Hint(errors.New("a"), "one"), Hint(Hint(errors.New("b"), "three"), "two"))
	if got := strings.Join(Hints(err), " "); got != "one two three" {
		t.Errorf("hints %q", got)
	}
}

func TestExitCodes(t *testing.T) {
	for want, err := range map[int]error{
		0: nil,
		1: errors.New("x"),
		2: fmt.Errorf("outer: %w", Usage("unknown flag %q", "--x")),
		7: Hint(WithExitCode(errors.New("x"), 7), "y"),
	} {
		if got := ExitCode(err); got != want {
			t.Errorf("ExitCode(%v) = %d, want %d", err, got, want)
		}
	}
}

func TestNilStaysNil(t *testing.T) {
	if Hint(nil, "x") != nil || WithExitCode(nil, 3) != nil {
		t.Error("an error came out of nothing")
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("PROCESS_TEST_CHILD") == "1" {
		Main("child", func(ctx context.Context) error {
			fmt.Println("ready")
			<-ctx.Done()
			return fmt.Errorf("waiting: %w", ctx.Err())
		})
	}
	os.Exit(m.Run())
}

func TestSignalEndsTheContextAndSaysInterrupted(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PROCESS_TEST_CHILD=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != Interrupted {
		t.Errorf("ended with %v", err)
	}
	if stderr.String() != "error: child was interrupted\n" {
		t.Errorf("stderr %q", stderr.String())
	}
}

func TestHintsCanBeReplacedAndTheErrorStays(t *testing.T) {
	inner := WithExitCode(Hint(Hint(errors.New("no"), "one"), "two"), 7)
	err := Hint(MapHints(inner, strings.ToUpper), "three")
	if got := strings.Join(Hints(err), " "); got != "three TWO ONE" {
		t.Errorf("hints %q", got)
	}
	if ExitCode(err) != 7 || err.Error() != "no" || !errors.Is(err, inner) {
		t.Errorf("%v, %d", err, ExitCode(err))
	}
	if MapHints(nil, strings.ToUpper) != nil {
		t.Error("an error out of nothing")
	}
}
