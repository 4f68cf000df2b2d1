package e2e

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sallyport-mesh/sallyport/test/play"
)

// laptop is a network namespace with one interface, as a laptop has one: the other
// end of the cable is on this host. What runs in it reaches the coordinator through
// a forwarder (the coordinator is on loopback), and agents by UDP, directly.
type laptop struct {
	t    *testing.T
	name string
	do   chan func()
	gone chan struct{}
}

const hostAddress, firstAddress, secondAddress = "10.213.77.1", "10.213.77.2", "10.213.77.99"

func newLaptop(t *testing.T) *laptop {
	t.Helper()
	l := &laptop{t: t, name: "sp-laptop-" + strconv.Itoa(os.Getpid()), do: make(chan func()), gone: make(chan struct{})}
	host := "spl" + strconv.Itoa(os.Getpid()) // 15 characters at most
	l.ip("netns", "add", l.name)
	t.Cleanup(func() { l.ip("netns", "del", l.name) }) // takes the cable along
	l.ip("link", "add", host, "type", "veth", "peer", "name", "wifi0", "netns", l.name)
	l.ip("addr", "add", hostAddress+"/24", "dev", host)
	l.ip("link", "set", host, "up")
	l.ip("-n", l.name, "link", "set", "lo", "up")
	l.ip("-n", l.name, "addr", "add", firstAddress+"/24", "dev", "wifi0")
	l.ip("-n", l.name, "link", "set", "wifi0", "up")
	l.ip("-n", l.name, "route", "add", "default", "via", hostAddress)

	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + l.name)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		entered <- err
		for {
			select {
			case f := <-l.do:
				f()
			case <-l.gone:
				return
			}
		}
	}()
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(l.gone) })
	return l
}

func (l *laptop) ip(args ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
}

// in calls f in the namespace, unless the laptop is gone.
func (l *laptop) in(f func()) {
	done := make(chan struct{})
	select {
	case l.do <- func() { f(); close(done) }:
		<-done
	case <-l.gone:
	}
}

// reach makes an address of this host's loopback reachable at the same address
// inside.
func (l *laptop) reach(address string) {
	l.t.Helper()
	outer, err := net.Listen("tcp4", hostAddress+":0")
	if err != nil {
		l.t.Fatal(err)
	}
	var inner net.Listener
	l.in(func() { inner, err = net.Listen("tcp4", address) })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { outer.Close(); inner.Close() })
	go forward(outer, func() (c net.Conn, err error) { return net.Dial("tcp4", address) })
	go forward(inner, func() (c net.Conn, err error) {
		err = net.ErrClosed
		l.in(func() { c, err = net.Dial("tcp4", outer.Addr().String()) })
		return c, err
	})
}

func forward(ln net.Listener, dial func() (net.Conn, error)) {
	for {
		from, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			to, err := dial()
			if err != nil {
				return
			}
			defer to.Close()
			var both sync.WaitGroup
			both.Go(func() { _, _ = io.Copy(to, from); to.(*net.TCPConn).CloseWrite() })
			both.Go(func() { _, _ = io.Copy(from, to); from.(*net.TCPConn).CloseWrite() })
			both.Wait()
		}()
	}
}

// anotherNetwork gives a laptop another address: what was open stays open, over a
// direct path again, and the coordinator is heard again.
func anotherNetwork(t *testing.T, w *play.World) {
	l := newLaptop(t)
	coordinator, err := url.Parse(w.Coordinator.URL)
	if err != nil {
		t.Fatal(err)
	}
	l.reach(coordinator.Host)
	rohit, err := w.NewUser(t.Context(), "rohit")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Admin(t.Context(), "", "grant", "add", "--role", "cluster-admin", "--user", "rohit", "--project", "aws"); err != nil {
		t.Fatal(err)
	}
	if err := rohit.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	rohit.Prefix = []string{"ip", "netns", "exec", l.name}
	up(t, rohit)
	direct := func() error {
		st := status(t, rohit)
		if !st.Connected || len(st.Clusters) != 1 || len(st.Clusters[0].Paths) != 1 || st.Clusters[0].Paths[0].Kind != "direct" {
			return fmt.Errorf("%+v", st)
		}
		return nil
	}
	eventually(t, "a direct path", direct)
	watch := running(t, rohit, "watch-network", "kube-root-ca.crt", edge1, "get", "configmaps", "-w")

	l.ip("-n", l.name, "addr", "del", firstAddress+"/24", "dev", "wifi0")
	l.ip("-n", l.name, "addr", "add", secondAddress+"/24", "dev", "wifi0")
	l.ip("-n", l.name, "route", "add", "default", "via", hostAddress)

	ok(t, rohit, edge1, "create", "configmap", "elsewhere")
	eventually(t, "the watch goes on", func() error { return says(watch.Log, "elsewhere") })
	eventually(t, "a direct path from the new address", direct)
	alive(t, watch)
	// What the coordinator says arrives again.
	if _, err := w.Admin(t.Context(), "", "user", "suspend", "rohit"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the coordinator is heard", func() error {
		if st := status(t, rohit); st.State != "ended" || !strings.Contains(st.Problem, "suspended") {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}
