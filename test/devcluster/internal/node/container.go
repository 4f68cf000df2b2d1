package node

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

var errNotFound = errors.New("not found on this node")

// containers are those somebody has asked for; a container nobody looks at costs nothing.
type containers struct {
	ctx  context.Context
	dir  string
	pods *pods

	mu   sync.Mutex
	byID map[string]*container

	running sync.WaitGroup // exec'd processes; the node waits for them when it stops
}

func newContainers(ctx context.Context, dir string, pods *pods) *containers {
	cs := &containers{ctx: ctx, dir: dir, pods: pods, byID: map[string]*container{}}
	go cs.everySecond()
	return cs
}

func (cs *containers) wait() { cs.running.Wait() }

// get starts the container's main program the first time somebody asks for it.
func (cs *containers) get(ctx context.Context, namespace, podName, name string) (*container, error) {
	pod, err := cs.pods.get(ctx, namespace, podName)
	if err != nil {
		return nil, err
	}
	if !hasContainer(pod, name) {
		return nil, fmt.Errorf("container %s of pod %s/%s: %w", name, namespace, podName, errNotFound)
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c, ok := cs.byID[containerID(pod, name)]; ok {
		return c, nil
	}
	c, err := cs.start(pod, name)
	if err != nil {
		return nil, fmt.Errorf("starting container %s of pod %s/%s: %w", name, namespace, podName, err)
	}
	cs.byID[c.id()] = c
	return c, nil
}

func containerID(pod *corev1.Pod, name string) string { return string(pod.UID) + "/" + name }

func hasContainer(pod *corev1.Pod, name string) bool {
	for _, c := range pod.Spec.Containers {
		if c.Name == name {
			return true
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if c.Name == name {
			return true
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		if c.Name == name {
			return true
		}
	}
	return false
}

func (cs *containers) start(pod *corev1.Pod, name string) (*container, error) {
	podDir := filepath.Join(cs.dir, pod.Namespace, pod.Name+"_"+string(pod.UID))
	workDir := filepath.Join(podDir, name)
	if err := os.MkdirAll(workDir, 0o700); err != nil {
		return nil, err
	}
	logPath := filepath.Join(podDir, name+".log")
	f, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(cs.ctx)
	c := &container{
		namespace: pod.Namespace, pod: pod.Name, uid: string(pod.UID), name: name,
		dir: workDir, podDir: podDir, logPath: logPath,
		ctx: ctx, cancel: cancel, running: &cs.running,
		log: f, watchers: map[chan string]struct{}{},
	}
	c.print(fmt.Sprintf("%s of pod %s/%s started", name, pod.Namespace, pod.Name))
	return c, nil
}

// everySecond prints the ticks, and ends the containers of pods that are gone.
func (cs *containers) everySecond() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-cs.ctx.Done():
			return
		case <-t.C:
		}
		for _, c := range cs.list() {
			if c.isGone(cs.pods) {
				cs.mu.Lock()
				delete(cs.byID, c.id())
				cs.mu.Unlock()
				c.end()
				continue
			}
			c.tick()
		}
	}
}

func (cs *containers) list() []*container {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return slices.Collect(maps.Values(cs.byID))
}

// container is one running container: a directory, a log and whoever follows it.
type container struct {
	namespace, pod, uid, name string
	dir, podDir, logPath      string

	ctx     context.Context
	cancel  context.CancelFunc
	running *sync.WaitGroup

	mu       sync.Mutex
	log      *os.File
	ticks    int
	watchers map[chan string]struct{}
	readers  int // followers of the log file
}

func (c *container) id() string { return c.uid + "/" + c.name }

// isGone tells whether the pod was deleted, or replaced by one of the same name. An apiserver
// that does not answer is no reason to end a container.
func (c *container) isGone(ps *pods) bool {
	pod, err := ps.get(c.ctx, c.namespace, c.pod)
	if err != nil {
		return errors.Is(err, errNotFound)
	}
	return string(pod.UID) != c.uid
}

// end kills what exec started here and removes what the container left behind.
func (c *container) end() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.log.Close()
	c.log = nil
	if err := os.RemoveAll(c.podDir); err != nil {
		slog.Warn("pod directory stays behind", "pod", c.namespace+"/"+c.pod, "err", err)
	}
}

func (c *container) tick() {
	c.mu.Lock()
	watched := len(c.watchers)+c.readers > 0
	if watched {
		c.ticks++
	}
	n := c.ticks
	c.mu.Unlock()
	if watched {
		c.print(fmt.Sprintf("tick %d", n))
	}
}

// print is the main program's standard output: one line to the log and to all who are attached.
func (c *container) print(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.log == nil {
		return
	}
	// The CRI log format: time, stream, F for a full line, text.
	if _, err := fmt.Fprintf(c.log, "%s stdout F %s\n", time.Now().UTC().Format(time.RFC3339Nano), line); err != nil {
		slog.Warn("container log is not writable", "pod", c.namespace+"/"+c.pod, "err", err)
	}
	for w := range c.watchers {
		select {
		case w <- line:
		default: // a client that does not read misses lines, the program never waits for it
		}
	}
}

// AttachContainer joins a client to the main program: it sees each line printed from now on,
// and each line it sends is echoed.
func (c *container) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, _ io.WriteCloser, tty bool, _ <-chan remotecommand.TerminalSize) error {
	lines := make(chan string, 256)
	c.mu.Lock()
	c.watchers[lines] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.watchers, lines)
		c.mu.Unlock()
	}()
	if in != nil {
		go func() {
			s := bufio.NewScanner(in)
			for s.Scan() {
				c.print(s.Text())
			}
		}()
	}
	if out == nil {
		out = discard{}
	}
	eol := "\n"
	if tty {
		eol = "\r\n"
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return nil
		case line := <-lines:
			// A client that went away is noticed here, at the next tick.
			if _, err := io.WriteString(out, line+eol); err != nil {
				return nil
			}
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }
