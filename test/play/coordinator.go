package play

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
	"github.com/sallyport-mesh/sallyport/pkg/pki"

	"connectrpc.com/connect"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Coordinator is a coordinator process and how to reach it.
type Coordinator struct {
	*Process
	URL    string
	Socket string
	// Login is the login URL with the root's pin.
	Login string
	Root  *x509.Certificate
}

// ports are chosen once and kept, so that what was written into kubeconfigs and
// join tokens stays true when the world is started again.
type ports struct {
	Coordinator, STUN, HydraPublic int
}

func (w *World) loadPorts() error {
	path := filepath.Join(w.Dir, "ports.json")
	raw, err := os.ReadFile(path)
	if err == nil {
		return json.Unmarshal(raw, &w.ports)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, p := range []*int{&w.ports.Coordinator, &w.ports.STUN, &w.ports.HydraPublic} {
		if *p, err = freePort(); err != nil {
			return err
		}
	}
	if raw, err = json.Marshal(w.ports); err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}

// freePort finds a TCP port on loopback that nobody uses now. It is below the
// range that the kernel hands out by itself, so it stays free for a restart.
func freePort() (int, error) {
	for range 200 {
		ln, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(20000+int(time.Now().UnixNano()/1000%12000)))
		if err != nil {
			continue
		}
		port := ln.Addr().(*net.TCPAddr).Port
		return port, ln.Close()
	}
	return 0, errors.New("no free port on loopback")
}

func (w *World) coordinatorURL() string {
	return "https://127.0.0.1:" + strconv.Itoa(w.ports.Coordinator)
}

// StartCoordinator starts it, or starts it again on the same data.
func (w *World) StartCoordinator(ctx context.Context) error {
	dir := filepath.Join(w.Dir, "coordinator")
	c := &Coordinator{URL: w.coordinatorURL(), Socket: filepath.Join(w.Dir, "admin.sock")}
	conf := fmt.Sprintf(`listen: 127.0.0.1:%d
data_dir: %s
socket: %s
overlay:
  stun: 127.0.0.1:%d
hydra:
  admin_url: %s
  public_url: %s
session:
  lifetime: %s
%s`, w.ports.Coordinator, dir, c.Socket, w.ports.STUN, w.Hydra.Admin, w.Hydra.Public, w.session, w.login)
	path := filepath.Join(w.Dir, "coordinator.yaml")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return err
	}
	var err error
	if c.Process, err = Start("coordinator", filepath.Join(w.Dir, "logs", "coordinator.log"), nil, w.bin("sallyport-coordinator"), "--config", path); err != nil {
		return err
	}
	w.Coordinator = c
	return until(ctx, c.Process, func() error { return c.ready(ctx, dir) })
}

// ready is nil once the coordinator answers on its TLS port and its socket.
func (c *Coordinator) ready(ctx context.Context, dir string) error {
	chain, err := pki.LoadChain(filepath.Join(dir, "ca", "root.crt"))
	if err != nil {
		return err
	}
	link := pki.Link{URL: c.URL, Pin: pki.Pin(chain[0])}
	client, err := apiclient.New(apiclient.Config{Link: link})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := client.Enroll().Discover(ctx, connect.NewRequest(&apiv1.DiscoverRequest{})); err != nil {
		return fmt.Errorf("the coordinator does not answer yet: %w", err)
	}
	if _, err := os.Stat(c.Socket); err != nil {
		return err
	}
	c.Root, c.Login = chain[0], link.String()
	return nil
}

// Admin runs sallyportctl over the coordinator's local socket.
func (w *World) Admin(ctx context.Context, stdin string, args ...string) (Result, error) {
	return run(ctx, nil, []byte(stdin), w.bin("sallyportctl"), append([]string{"--socket", w.Coordinator.Socket}, args...)...)
}

// adminOnce is Admin for what may be there from an earlier start.
func (w *World) adminOnce(ctx context.Context, stdin string, args ...string) error {
	r, err := w.Admin(ctx, stdin, args...)
	if err != nil && strings.Contains(r.Stderr, "exists already") {
		return nil
	}
	return err
}
