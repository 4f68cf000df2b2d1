package e2e

import (
	"fmt"
	"sync"
	"testing"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// Killing any process at any moment loses nothing that was acknowledged, and the
// next start is clean: every request that was answered is at the coordinator
// exactly once. Its outcome may be missing where the agent was killed right
// after the answer; it then shows as never written.
func TestKilledProcessesLoseNothing(t *testing.T) {
	w := quickstart(t)
	virat := person(t, w, "virat")
	edge := w.Clusters["edge-1"]
	ok(t, virat, "--context", "sallyport/edge-1", "get", "pods")

	// A steady stream of requests, each for an object of its own that is not
	// there: the name is in the request's target, and so in its record.
	var mu sync.Mutex
	answered := map[string]bool{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for worker := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("probe-%d-%d", worker, i)
				r, err := virat.Kubectl(t.Context(), "--context", "sallyport/edge-1", "--request-timeout=5s", "delete", "configmap", name, "--ignore-not-found", "--wait=false")
				if err == nil && r.Code == 0 {
					mu.Lock()
					answered[name] = true
					mu.Unlock()
				}
			}
		})
	}
	progress := func(more int) {
		t.Helper()
		mu.Lock()
		from := len(answered)
		mu.Unlock()
		eventually(t, "progress", func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(answered) < from+more {
				return fmt.Errorf("%d of %d requests were answered", len(answered)-from, more)
			}
			return nil
		})
	}
	progress(3)

	// The agent dies; then the coordinator, during which the edge works on; then
	// the person's daemon.
	edge.Agent.Kill()
	if err := w.StartAgent(t.Context(), edge); err != nil {
		t.Fatal(err)
	}
	progress(3)
	w.Coordinator.Kill()
	progress(3)
	if err := w.StartCoordinator(t.Context()); err != nil {
		t.Fatal(err)
	}
	progress(3)
	virat.Daemon.Kill()
	if err := virat.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	progress(3)
	close(stop)
	wg.Wait()

	alice := person(t, w, "alice")
	eventually(t, "every answered request is on record once", func() error {
		return exactlyOnce(t, alice, answered)
	})
	t.Logf("%d requests were answered, each is on record once", len(answered))
}

func exactlyOnce(t *testing.T, p *play.Person, answered map[string]bool) error {
	t.Helper()
	seen := map[string]int{}
	for _, r := range search(t, p, "--cluster", "edge-1", "--verb", "delete", "--resource", "configmaps", "--limit", "5000") {
		if r.Intent.ObjectRef != nil {
			seen[r.Intent.ObjectRef.Name]++
		}
	}
	for name := range answered {
		if seen[name] != 1 {
			return fmt.Errorf("%s is on record %d times", name, seen[name])
		}
	}
	return nil
}
