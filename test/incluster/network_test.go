package incluster

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// network is a pod's network namespace. There is nothing in it but a loopback
// interface and the addresses that somebody here serves: the parts of kube-proxy
// and of the way out. No UDP leaves it, as in many a cluster at the edge.
type network struct {
	do chan func()

	mu        sync.Mutex
	listeners []net.Listener
	conns     map[net.Conn]struct{}
}

// newNetwork makes the namespace. It lives on a thread that does nothing else,
// and from which a pod's processes are started.
func newNetwork() (*network, error) {
	n := &network{do: make(chan func()), conns: map[net.Conn]struct{}{}}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = interfaceUp("lo")
		}
		made <- err
		if err != nil {
			return
		}
		for f := range n.do {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	return n, nil
}

// in calls f in the namespace.
func (n *network) in(f func() error) error {
	done := make(chan error)
	n.do <- func() { done <- f() }
	return <-done
}

// start starts a process in the namespace.
func (n *network) start(cmd *exec.Cmd) error { return n.in(cmd.Start) }

// address gives the namespace an IPv4 address of its own.
func (n *network) address(ip net.IP) error {
	return n.in(func() error {
		return control("lo:0", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(ip.To4()) })
	})
}

// forward carries connections made to address inside to target outside.
func (n *network) forward(address, target string) error {
	var listener net.Listener
	err := n.in(func() (err error) { listener, err = net.Listen("tcp4", address); return err })
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.listeners = append(n.listeners, listener)
	n.mu.Unlock()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go n.carry(c, target)
		}
	}()
	return nil
}

func (n *network) carry(inside net.Conn, target string) {
	outside, err := net.Dial("tcp4", target)
	if err != nil {
		_ = inside.Close()
		return
	}
	n.keep(inside, outside)
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{inside, outside}, {outside, inside}} {
		both.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			_ = pair[0].(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
	n.drop(inside, outside)
}

func (n *network) keep(conns ...net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range conns {
		n.conns[c] = struct{}{}
	}
}

func (n *network) drop(conns ...net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(n.conns, c)
	}
}

// close ends the namespace. Its processes have ended before.
func (n *network) close() {
	n.mu.Lock()
	for _, l := range n.listeners {
		_ = l.Close()
	}
	for c := range n.conns {
		_ = c.Close()
	}
	n.mu.Unlock()
	close(n.do)
}

func interfaceUp(name string) error {
	return control(name, unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil })
}

func control(name string, request uint, fill func(*unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	return errors.Join(fill(r), os.NewSyscallError("ioctl", unix.IoctlIfreq(fd, request, r)))
}
