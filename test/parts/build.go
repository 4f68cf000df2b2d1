package parts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// reportEvery is how often somebody who waits for a build hears of it.
const reportEvery = 15 * time.Second

// keep is how many builds of one part stay in the cache.
const keep = 3

// CacheDir is where binaries are kept: $SALLYPORT_CACHE, or sallyport in the user's cache.
func CacheDir() (string, error) {
	if dir := os.Getenv("SALLYPORT_CACHE"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("resolving SALLYPORT_CACHE: %w", err)
		}
		return abs, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding cache directory: %w\nhint: set SALLYPORT_CACHE", err)
	}
	return filepath.Join(dir, "sallyport"), nil
}

func build(ctx context.Context, root string, r recipe, note string) (string, error) {
	key, err := r.key(ctx, root)
	if err != nil {
		return "", err
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "parts")
	dir := filepath.Join(cache, string(r.part)+"-"+key[:20])
	path := filepath.Join(dir, r.binary)
	if found(path) {
		return path, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("making cache directory: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(cache, string(r.part)+".lock"), r.part)
	if err != nil {
		return "", err
	}
	defer unlock()
	if found(path) {
		return path, nil // built by the one we waited for
	}
	// With the lock in hand, what looks like a build under way is one that was killed.
	if err := removeAll(filepath.Join(cache, "."+string(r.part)+"-*")); err != nil {
		return "", fmt.Errorf("removing killed build: %w", err)
	}
	temp, err := os.MkdirTemp(cache, "."+string(r.part)+"-*")
	if err != nil {
		return "", fmt.Errorf("making build directory: %w", err)
	}
	defer os.RemoveAll(temp)
	if note != "" {
		report("%s: %s", r.part, note)
	}
	if err := r.compile(ctx, filepath.Join(root, r.module), filepath.Join(temp, r.binary)); err != nil {
		return "", fmt.Errorf("building %s: %w", r.part, err)
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", fmt.Errorf("opening build directory to others: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("replacing unfinished build: %w", err)
	}
	if err := os.Rename(temp, dir); err != nil {
		return "", fmt.Errorf("finishing build: %w", err)
	}
	return path, prune(cache, r.part)
}

func removeAll(pattern string) error {
	dirs, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// found also marks the build as used, for prune.
func found(path string) bool {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return false
	}
	now := time.Now()
	_ = os.Chtimes(filepath.Dir(path), now, now)
	return true
}

func (r recipe) compile(ctx context.Context, dir, output string) error {
	began := time.Now()
	total := r.packages(ctx, dir)
	report("%s: building from %s; with nothing cached this takes %s", r.part, dir, r.usual)
	args := append([]string{"build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly", "-o", output}, r.flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, r.pkg)...)
	cmd.Dir, cmd.Env = dir, r.environment()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	out := &progress{}
	cmd.Stdout, cmd.Stderr = out, out
	finished := make(chan struct{})
	defer close(finished)
	go func() {
		t := time.NewTicker(reportEvery)
		defer t.Stop()
		for {
			select {
			case <-finished:
				return
			case <-t.C:
				report("%s: %v so far, %d of at most %d packages compiled", r.part,
					time.Since(began).Round(time.Second), out.packages.Load(), total)
			}
		}
	}()
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w\n%s", explain(err), out.complaints())
	}
	report("%s: built in %v", r.part, time.Since(began).Round(time.Second))
	return nil
}

// packages counts what might have to be compiled; 0 when go does not tell.
func (r recipe) packages(ctx context.Context, dir string) int {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-deps", "-mod=readonly"}, append(tagsOf(r.flags), r.pkg)...)...)
	cmd.Dir, cmd.Env = dir, r.environment()
	out, err := cmd.Output()
	if err != nil {
		return 0
	}
	return bytes.Count(out, []byte("\n"))
}

func tagsOf(flags []string) []string {
	return slices.DeleteFunc(slices.Clone(flags), func(f string) bool { return !strings.HasPrefix(f, "-tags=") })
}

// progress takes the output of go build -v: a line for each package, and what went wrong.
type progress struct {
	packages atomic.Int64
	rest     []byte
	other    []string
}

func (p *progress) Write(b []byte) (int, error) {
	p.rest = append(p.rest, b...)
	for {
		line, rest, ok := bytes.Cut(p.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		p.rest = rest
		p.add(string(line))
	}
}

func (p *progress) add(line string) {
	if line != "" && !strings.ContainsAny(line, " :\t#") {
		p.packages.Add(1)
		return
	}
	if !strings.HasPrefix(line, "go: downloading") {
		p.other = append(p.other, line)
	}
}

func (p *progress) complaints() string {
	return strings.Join(p.other[max(0, len(p.other)-30):], "\n")
}

// explain adds what the person in front of a failed go command can do.
func explain(err error) error {
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w\nhint: install Go and put it into PATH", err)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}

// lock waits for whoever builds the same part.
func lock(ctx context.Context, path string, p Part) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening build lock: %w", err)
	}
	began, told := time.Now(), time.Now()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
		}
		if time.Since(told) >= reportEvery {
			told = time.Now()
			report("%s: another process has been building it for %v, waiting", p, time.Since(began).Round(time.Second))
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for another build of %s: %w", p, ctx.Err()), f.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// prune removes all but the builds used last. A process that runs one of them keeps it.
func prune(cache string, p Part) error {
	dirs, err := filepath.Glob(filepath.Join(cache, string(p)+"-*"))
	if err != nil {
		return fmt.Errorf("listing builds: %w", err)
	}
	used := map[string]time.Time{}
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil {
			used[dir] = info.ModTime()
		}
	}
	slices.SortFunc(dirs, func(a, b string) int { return used[b].Compare(used[a]) })
	for _, dir := range dirs[min(keep, len(dirs)):] {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("removing old build: %w", err)
		}
	}
	return nil
}

// stderr takes what people who wait should know; tests listen in.
var stderr io.Writer = os.Stderr

func report(format string, args ...any) {
	fmt.Fprintf(stderr, "parts: "+format+"\n", args...)
}

// tail keeps the last lines written to it, for the error of a part that fails.
func tail(r io.Reader, n int, also io.Writer) string {
	var lines []string
	s := bufio.NewScanner(r)
	for s.Scan() {
		if also != nil {
			fmt.Fprintln(also, s.Text())
		}
		lines = append(lines, s.Text())
		if len(lines) > n {
			lines = lines[1:]
		}
	}
	return strings.Join(lines, "\n")
}
