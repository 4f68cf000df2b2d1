//go:build long

package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// A service account's token lasts ten minutes and WireGuard's keys three; a watch
// lasts longer than both, through a laptop's nap, and so does what is typed after.
func TestLongWatchOutlivesTokensAndKeys(t *testing.T) {
	w, virat := oneEdge(t, play.Config{})
	edge := w.Clusters["edge-1"]
	create := func(name string) {
		t.Helper()
		if _, err := w.KubectlDirect(t.Context(), edge, "create", "configmap", name); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	watch := running(t, virat, "watch-long", "kube-root-ca.crt", edge1, "get", "configmaps", "-w")
	pod := aPod(t, virat, "edge-1")
	logs := running(t, virat, "logs-long", "", edge1, "logs", "-f", pod)
	controller := informed(t, program(t, virat))

	// Everything on the laptop stops when it sleeps. (Not exec: kubectl gives up a
	// WebSocket after a minute by a clock that a stopped process sees run on, and a
	// sleeping machine does not.)
	for round, nap := range []time.Duration{50 * time.Second, 4 * time.Minute} {
		pids := []int{status(t, virat).PID, watch.Pid(), logs.Pid()}
		for _, pid := range pids {
			freeze(t, pid)
		}
		name := []string{"short-nap", "long-nap"}[round]
		create(name)
		asleep(t, nap)
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
		}
		ok(t, virat, edge1, "get", "configmap", name)
		eventually(t, "the watch goes on", func() error { return says(watch.Log, name) })
		eventually(t, "a controller goes on", func() error { return controller(name) })
		alive(t, watch)
		alive(t, logs)
	}
	if t.Failed() {
		return
	}

	exec := running(t, virat, "exec-long", "started", edge1, "exec", pod, "--", "sh", "-c", "echo started; while sleep 5; do date; done")
	asleep(t, 11*time.Minute-time.Since(began))
	create("after-the-token")
	eventually(t, "the watch goes on", func() error { return says(watch.Log, "after-the-token") })
	eventually(t, "a controller goes on", func() error { return controller("after-the-token") })
	ok(t, virat, edge1, "get", "pods")
	ok(t, virat, edge1, "exec", pod, "--", "true")
	alive(t, watch)
	alive(t, logs)
	alive(t, exec)
}
