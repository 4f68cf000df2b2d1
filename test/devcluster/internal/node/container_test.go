package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// newTestContainer starts a container that ends with the test, or with cancel.
func newTestContainer(t *testing.T) (c *container, cancel func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cs := &containers{ctx: ctx, dir: t.TempDir(), byID: map[string]*container{}}
	c, err := cs.start(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "uid"}}, "web")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		cs.wait()
	})
	return c, cancel
}

// stream is one of a client's, as remotecommand hands it over.
type stream struct{ bytes.Buffer }

func (*stream) Close() error { return nil }

func shell(t *testing.T, c *container, in io.Reader, tty bool, resize <-chan remotecommand.TerminalSize, script string) (string, error) {
	t.Helper()
	var out stream
	err := c.ExecInContainer(t.Context(), "", "", "", []string{"sh", "-c", script}, in, &out, &out, tty, resize, 0)
	return out.String(), err
}

func TestTerminalHasTheClientsSizeAndEndsWithItsInput(t *testing.T) {
	c, _ := newTestContainer(t)
	sizes := make(chan remotecommand.TerminalSize, 1)
	sizes <- remotecommand.TerminalSize{Width: 123, Height: 45}
	close(sizes)
	in, send := io.Pipe()
	go func() {
		fmt.Fprintln(send, "typed")
		_ = send.Close()
	}()
	out, err := shell(t, c, in, true, sizes,
		`test -t 0 && test -t 1 || exit 9; read line; until [ "$(stty size)" = "45 123" ]; do :; done; echo "got $line"; cat`)
	if err != nil || !strings.Contains(out, "got typed\r\n") {
		t.Errorf("terminal says %q, %v", out, err)
	}
}

func TestCommandThatDoesNotReadItsInputStillEnds(t *testing.T) {
	c, _ := newTestContainer(t)
	never, _ := io.Pipe()
	if _, err := shell(t, c, never, false, nil, "exit 3"); !errors.As(err, new(utilexec.CodeExitError)) {
		t.Errorf("exit 3 came back as %v", err)
	}
}

func TestSignalledCommandReportsWhatAShellWould(t *testing.T) {
	c, _ := newTestContainer(t)
	_, err := shell(t, c, nil, false, nil, "kill -TERM $$")
	var exit utilexec.CodeExitError
	if !errors.As(err, &exit) || exit.Code != 128+15 {
		t.Errorf("killed by SIGTERM: %v, want code 143", err)
	}
}

func TestBackgroundJobGoesWithItsCommand(t *testing.T) {
	c, _ := newTestContainer(t)
	out, err := shell(t, c, nil, false, nil, "sleep 1000 >/dev/null 2>&1 & echo $!")
	if err != nil {
		t.Fatal(err)
	}
	ends(t, out)
}

func TestEndOfTheContainerKillsWhatExecStarted(t *testing.T) {
	for _, tty := range []bool{false, true} {
		t.Run(fmt.Sprintf("tty %v", tty), func(t *testing.T) {
			c, cancel := newTestContainer(t)
			r, w := io.Pipe()
			done := make(chan error, 1)
			go func() {
				done <- c.ExecInContainer(t.Context(), "", "", "", []string{"sh", "-c", "sleep 1000 & echo $!; wait"}, nil, w, w, tty, nil, 0)
			}()
			line := make([]byte, 32)
			n, err := r.Read(line)
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.Copy(io.Discard, r) }()
			cancel()
			select {
			case err := <-done:
				if err == nil {
					t.Error("a killed command reports success")
				}
			case <-time.After(time.Minute):
				t.Fatal("the command runs on")
			}
			ends(t, string(line[:n]))
		})
	}
}

// ends waits until the process whose number a shell printed is gone.
func ends(t *testing.T, printed string) {
	t.Helper()
	var pid int
	if _, err := fmt.Sscan(printed, &pid); err != nil {
		t.Fatalf("shell printed %q: %v", printed, err)
	}
	deadline := time.Now().Add(time.Minute)
	for !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(stat), ") Z ") {
			return // dead, and left for whoever adopted it
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestAttachedClientThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	c, _ := newTestContainer(t)
	stuck, unread := io.Pipe()
	defer stuck.Close()
	go func() { _ = c.AttachContainer(t.Context(), "", "", "", nil, unread, nil, false, nil) }()
	deadline := time.Now().Add(time.Minute)
	for watching := 0; watching == 0; {
		c.mu.Lock()
		watching = len(c.watchers)
		c.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatal("attach did not begin")
		}
	}
	const lines = 2000 // more than any buffer in between
	for n := range lines {
		c.print(fmt.Sprint("line ", n))
	}
	raw, err := os.ReadFile(c.logPath)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(raw), " stdout F line "); got != lines {
		t.Errorf("log has %d lines, want %d", got, lines)
	}
}

func TestPrintedLineBreaksStayInTheLogFormat(t *testing.T) {
	c, _ := newTestContainer(t)
	in := strings.NewReader("first\nsecond without an end")
	ctx, cancel := context.WithCancel(t.Context())
	out, w := io.Pipe()
	go func() { _ = c.AttachContainer(ctx, "", "", "", in, w, nil, false, nil) }()
	seen := make([]byte, len("first\nsecond without an end\n"))
	if _, err := io.ReadFull(out, seen); err != nil {
		t.Fatal(err)
	}
	cancel()
	raw, err := os.ReadFile(c.logPath)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.SplitN(line, " ", 4); len(fields) != 4 || fields[1] != "stdout" || fields[2] != "F" {
			t.Errorf("log line %q is not in the CRI format", line)
		}
	}
}

func FuzzLogOptions(f *testing.F) {
	f.Add("follow=true&tailLines=3&sinceSeconds=9&timestamps=1")
	f.Add("sinceTime=2026-01-02T03:04:05Z&limitBytes=0&previous=false")
	f.Add("tailLines=-1")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		o, err := logOptions(q)
		if err != nil {
			return
		}
		for name, n := range map[string]*int64{"tailLines": o.TailLines, "limitBytes": o.LimitBytes, "sinceSeconds": o.SinceSeconds} {
			if n != nil && *n < 0 {
				t.Errorf("%s is %d", name, *n)
			}
		}
		_ = readerOptions(o)
	})
}
