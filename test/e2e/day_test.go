package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/test/play"
)

const edge1 = "--context=sallyport/edge-1"

// oneEdge is a small world: edge-1 in project aws, and virat with everything on it,
// his daemon started by `sallyport up` as on any laptop.
func oneEdge(t *testing.T, cfg play.Config) (*play.World, *play.Person) {
	t.Helper()
	w, virat := edgeWorld(t, cfg)
	up(t, virat)
	return w, virat
}

// up runs `sallyport up` until the test ends.
func up(t *testing.T, p *play.Person) {
	t.Helper()
	t.Cleanup(func() {
		_, _ = p.Run(context.WithoutCancel(t.Context()), "sallyport", "down") // it may be down
		if raw, err := os.ReadFile(filepath.Join(p.Home, "daemon.log")); err == nil && t.Failed() {
			t.Logf("--- daemon of %s\n%s", p.Name, raw)
		}
	})
	if _, err := p.Run(t.Context(), "sallyport", "up"); err != nil {
		t.Fatal(err)
	}
	ok(t, p, edge1, "get", "pods")
}

// edgeWorld is oneEdge before virat's daemon runs.
func edgeWorld(t *testing.T, cfg play.Config) (*play.World, *play.Person) {
	t.Helper()
	w := world(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cluster := make(chan error, 1)
	go func() {
		_, err := w.StartCluster(ctx, "edge-1", "aws")
		cluster <- err
	}()
	virat, err := w.NewUser(ctx, "virat")
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"project", "add", "aws"},
		{"grant", "add", "--role", "cluster-admin", "--user", "virat", "--project", "aws"},
	} {
		if _, err := w.Admin(ctx, "", args...); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-cluster; err != nil {
		t.Fatal(err)
	}
	if err := w.Import(ctx, w.Clusters["edge-1"]); err != nil {
		t.Fatal(err)
	}
	if err := w.StartAgent(ctx, w.Clusters["edge-1"]); err != nil {
		t.Fatal(err)
	}
	if err := virat.Login(ctx); err != nil {
		t.Fatal(err)
	}
	return w, virat
}

// standing is `sallyport status -o json`, as far as it matters here.
type standing struct {
	PID       int
	DeviceID  string
	State     string
	Problem   string
	Connected bool
	Warnings  []struct{ Text, Hint string }
	Clusters  []struct {
		Paths []struct {
			Kind    string
			Latency time.Duration
			Silent  bool
		}
	}
}

func status(t *testing.T, p *play.Person) standing {
	t.Helper()
	r, _ := p.Run(t.Context(), "sallyport", "status", "-o", "json") // an error says what its JSON does
	var st standing
	if err := json.Unmarshal([]byte(r.Stdout), &st); err != nil {
		t.Fatalf("%v: %s%s", err, r.Stdout, r.Stderr)
	}
	return st
}

// daemons are the processes of a person's home that are daemons.
func daemons(t *testing.T, p *play.Person) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !strings.Contains(string(line), "sallyport\x00daemon\x00") {
			continue
		}
		environ, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !strings.Contains("\x00"+string(environ), "\x00SALLYPORT_HOME="+p.Home+"\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// crash kills the daemon as a power cut would.
func crash(t *testing.T, p *play.Person) {
	t.Helper()
	for _, pid := range daemons(t, p) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the daemon is gone", func() error {
		if left := daemons(t, p); len(left) > 0 {
			return fmt.Errorf("%v are there", left)
		}
		return nil
	})
}

// What happens on a working day goes unnoticed by somebody typing kubectl, and
// what does not is said plainly, with the one command that helps.
func TestTheClientsDay(t *testing.T) {
	w, virat := oneEdge(t, play.Config{})
	edge := w.Clusters["edge-1"]

	t.Run("twenty kubectls after a reboot start one daemon", func(t *testing.T) {
		kubeconfig := filepath.Join(virat.Home, "kubeconfig")
		before, err := os.ReadFile(kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		crash(t, virat)
		if r, err := virat.Run(t.Context(), "sallyport", "status"); err != nil || !strings.Contains(r.Stdout, "the next kubectl starts it") {
			t.Errorf("status: %v %s", err, r.Stdout)
		}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := virat.Kubectl(t.Context(), edge1, "get", "pods"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if pids := daemons(t, virat); len(pids) != 1 {
			t.Errorf("daemons %v", pids)
		}
		after, err := os.ReadFile(kubeconfig)
		if err != nil || string(after) != string(before) {
			t.Errorf("kubeconfig changed (%v):\n%s\n%s", err, before, after)
		}
	})

	t.Run("down is down", func(t *testing.T) {
		if _, err := virat.Run(t.Context(), "sallyport", "down"); err != nil {
			t.Fatal(err)
		}
		refused(t, virat, []string{"error: the sallyport daemon is not running", "hint: sallyport up"}, edge1, "get", "pods")
		if pids := daemons(t, virat); len(pids) != 0 {
			t.Errorf("daemons %v", pids)
		}
		if _, err := virat.Run(t.Context(), "sallyport", "up"); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("helm works unchanged", func(t *testing.T) { helmWorks(t, virat) })
	t.Run("a client-go program works unchanged", func(t *testing.T) { clientGoWorks(t, virat) })
	t.Run("two profiles work side by side", func(t *testing.T) { twoProfiles(t, virat) })
	t.Run("a relay alone carries it, and status says so", func(t *testing.T) { relayAlone(t, virat) })
	t.Run("another network goes unnoticed", func(t *testing.T) { anotherNetwork(t, w) })
	controller := informed(t, program(t, virat))

	t.Run("the coordinator restarts under a watch", func(t *testing.T) {
		watch := running(t, virat, "watch-coordinator", "kube-root-ca.crt", edge1, "get", "configmaps", "-w")
		w.Coordinator.Kill()
		ok(t, virat, edge1, "create", "configmap", "meanwhile")
		eventually(t, "the watch goes on", func() error { return says(watch.Log, "meanwhile") })
		eventually(t, "status says so", func() error {
			st := status(t, virat)
			if st.Connected || len(st.Warnings) == 0 || !strings.Contains(st.Warnings[0].Text, "the coordinator is not heard") {
				return fmt.Errorf("%+v", st)
			}
			if st.State != "joined" || len(st.Clusters) != 1 || len(st.Clusters[0].Paths) != 1 || st.Clusters[0].Paths[0].Silent {
				t.Errorf("status %+v", st)
			}
			return nil
		})
		if err := w.StartCoordinator(t.Context()); err != nil {
			t.Fatal(err)
		}
		ok(t, virat, edge1, "create", "configmap", "afterwards")
		eventually(t, "the watch goes on", func() error { return says(watch.Log, "afterwards") })
		eventually(t, "it is heard again", func() error {
			if st := status(t, virat); !st.Connected || len(st.Warnings) > 0 {
				return fmt.Errorf("%+v", st)
			}
			return nil
		})
		alive(t, watch)
	})

	t.Run("the agent restarts", func(t *testing.T) {
		edge.Agent.Kill()
		eventually(t, "status says so", func() error {
			r, err := virat.Run(t.Context(), "sallyport", "status")
			if err != nil || !strings.Contains(r.Stdout, "agent offline") {
				return fmt.Errorf("%w %s", err, r.Stdout)
			}
			return nil
		})
		refused(t, virat, []string{"error: no agent of edge-1 answers: it is offline", "hint: sallyport status"}, edge1, "get", "pods")
		typed := make(chan error, 1)
		go func() {
			_, err := virat.Kubectl(t.Context(), edge1, "get", "pods")
			typed <- err
		}()
		if err := w.StartAgent(t.Context(), edge); err != nil {
			t.Fatal(err)
		}
		if err := <-typed; err != nil {
			t.Errorf("what was typed meanwhile: %v", err)
		}
		ok(t, virat, edge1, "create", "configmap", "controlled")
	})

	t.Run("the laptop sleeps", func(t *testing.T) {
		pid := status(t, virat).PID
		watch := running(t, virat, "watch-sleep", "kube-root-ca.crt", edge1, "get", "configmaps", "-w")
		freeze(t, pid)
		// Long enough for the agent to give up the path that it knew; what it sends
		// meanwhile is lost.
		if _, err := w.KubectlDirect(t.Context(), edge, "create", "configmap", "while-asleep"); err != nil {
			t.Error(err)
		}
		typed := make(chan error, 1)
		go func() {
			_, err := virat.Kubectl(t.Context(), edge1, "get", "configmap", "while-asleep")
			typed <- err
		}()
		asleep(t, sleepTime)
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if err := <-typed; err != nil {
			t.Errorf("what was typed into the sleep: %v", err)
		}
		eventually(t, "the watch goes on", func() error { return says(watch.Log, "while-asleep") })
		alive(t, watch)
	})

	// client-go asks a connection that has gone quiet for a sign of life after 30
	// seconds; only then does a controller hear that the agent is another process.
	t.Run("a controller goes on", func(t *testing.T) {
		eventually(t, "it hears of what was made after the restarts", func() error { return controller("controlled") })
	})

	// The node's discovery key is new at every start, and the agent hears of it from
	// the coordinator or through its relay: with both away the agent does not know
	// who is calling. That is said, and it ends by itself.
	t.Run("a daemon that comes back without the coordinator says what is missing", func(t *testing.T) {
		w.Coordinator.Kill()
		crash(t, virat)
		refused(t, virat, []string{"error: no agent of edge-1 answers, and the coordinator, whose relay may be what is missing, is not heard"}, edge1, "get", "pods")
		if err := w.StartCoordinator(t.Context()); err != nil {
			t.Fatal(err)
		}
		ok(t, virat, edge1, "get", "pods")
	})

	t.Run("the session is ended", func(t *testing.T) {
		watch := running(t, virat, "watch-end", "kube-root-ca.crt", edge1, "get", "configmaps", "-w")
		ended := func(words ...string) {
			t.Helper()
			eventually(t, "status says so", func() error {
				if st := status(t, virat); st.State != "ended" {
					return fmt.Errorf("%+v", st)
				}
				return nil
			})
			refused(t, virat, words, edge1, "get", "pods")
			if r, err := virat.Run(t.Context(), "sallyport", "status"); err == nil || r.Stderr != strings.Join(words, "\n")+"\n" {
				t.Errorf("status: %q, want %q", r.Stderr, words)
			}
		}
		eventually(t, "the agent has found the coordinator again", func() error { return online(t, w, "edge-1") })
		if _, err := w.Admin(t.Context(), "", "user", "suspend", "--reason", "left", "virat"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the watch ends", func() error {
			select {
			case <-watch.Done():
				return nil
			default:
				return errors.New("it runs")
			}
		})
		ended("error: this account is suspended", "hint: ask an administrator to resume it")

		if _, err := w.Admin(t.Context(), "", "user", "resume", "virat"); err != nil {
			t.Fatal(err)
		}
		if err := virat.Login(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a login wakes it", func() error {
			_, err := virat.Kubectl(t.Context(), edge1, "get", "pods")
			return err
		})
		if _, err := w.Admin(t.Context(), "", "device", "revoke", status(t, virat).DeviceID); err != nil {
			t.Fatal(err)
		}
		ended("error: this device was revoked", "hint: sallyport login --new-device")
		if err := virat.Login(t.Context(), "--new-device"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a new device works", func() error {
			_, err := virat.Kubectl(t.Context(), edge1, "get", "pods")
			return err
		})
	})
}

// twoProfiles logs the same person in a second time, as a device of its own: what
// counts is that neither profile touches the other.
func twoProfiles(t *testing.T, virat *play.Person) {
	work := func(args ...string) play.Result {
		t.Helper()
		r, err := virat.Run(t.Context(), "sallyport", append([]string{"--profile", "work"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if err := virat.Login(t.Context(), "--profile", "work"); err != nil {
		t.Fatal(err)
	}
	work("up")
	for _, context := range []string{"sallyport/work/edge-1", "sallyport/edge-1"} {
		ok(t, virat, "--context", context, "get", "pods")
	}
	// The shell's choice of a profile does not change whose context it is.
	if _, err := virat.KubectlWith(t.Context(), []string{"SALLYPORT_PROFILE=nowhere"}, edge1, "get", "pods"); err != nil {
		t.Error(err)
	}
	work("use", "edge-1", "-n", "kube-system")
	if got := ok(t, virat, "config", "current-context").Stdout; got != "sallyport/work/edge-1\n" {
		t.Errorf("the current context is %q", got)
	}
	if got := ctl(t, virat, "--profile", "work", "whoami"); !strings.Contains(got, "virat") {
		t.Errorf("sallyportctl: %s", got)
	}
	work("logout")
	contexts, err := virat.Contexts(t.Context())
	if err != nil || strings.Join(contexts, " ") != "sallyport/edge-1" {
		t.Errorf("contexts %v, %v", contexts, err)
	}
	ok(t, virat, edge1, "get", "pods")
}

// relayAlone is a laptop behind a firewall that lets no UDP through.
func relayAlone(t *testing.T, virat *play.Person) {
	restart := func(prefix ...string) {
		t.Helper()
		if _, err := virat.Run(t.Context(), "sallyport", "down"); err != nil {
			t.Fatal(err)
		}
		virat.Prefix = prefix
		if _, err := virat.Run(t.Context(), "sallyport", "up"); err != nil {
			t.Fatal(err)
		}
	}
	restart("env", "TS_DEBUG_ALWAYS_USE_DERP=1")
	ok(t, virat, edge1, "get", "pods")
	eventually(t, "status says so", func() error {
		r, err := virat.Run(t.Context(), "sallyport", "status")
		if err != nil || !relayed.MatchString(r.Stdout) {
			return fmt.Errorf("%w %s", err, r.Stdout)
		}
		return nil
	})
	restart()
}

var relayed = regexp.MustCompile(`sallyport/edge-1 .* relayed, [0-9.]+ ms`)

// sleepTime is longer than a path is trusted without an answer (6.5 s).
const sleepTime = 12 * time.Second

// freeze stops a process as a laptop's sleep does, until the test ends at the
// latest.
func freeze(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // it may have ended
}

// asleep lets time pass: there is no event in it to wait for.
func asleep(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// online is nil while the coordinator hears a cluster's agent.
func online(t *testing.T, w *play.World, cluster string) error {
	t.Helper()
	r, err := w.Admin(t.Context(), "", "cluster", "list")
	if err != nil {
		return err
	}
	for line := range strings.Lines(r.Stdout) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == cluster && f[2] == "online" {
			return nil
		}
	}
	return errors.New(r.Stdout)
}

func alive(t *testing.T, p *play.Process) {
	t.Helper()
	select {
	case <-p.Done():
		raw, _ := os.ReadFile(p.Log)
		t.Errorf("%s ended:\n%s", p.Name, raw)
	default:
	}
}
