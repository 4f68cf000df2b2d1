package uplink

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/coordinatortest"
	"github.com/sallyport-mesh/sallyport/node-agent/internal/auditlog"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// The roles in which this test's binary runs again, to be killed.
const (
	roleVar         = "SALLYPORT_TEST_CRASH_ROLE"
	roleAgent       = "agent"
	roleCoordinator = "coordinator"
)

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVar) {
	case roleAgent:
		err = crashAgent()
	case roleCoordinator:
		err = crashCoordinator()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// crashAgent records and ships until it is killed, or until its standard input
// ends and everything is acknowledged. Each line of its output is an audit id
// whose intent is durable.
func crashAgent() error {
	log, err := auditlog.Open(context.Background(), auditlog.Config{
		Dir: os.Getenv("DIR"), Origin: os.Getenv("ORIGIN"), Key: os.Getenv("KEY"), Cosigner: os.Getenv("COSIGNER"),
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	shipped := make(chan error, 1)
	go func() {
		shipped <- Ship(ctx, ShipConfig{
			Client: apiv1connect.NewAgentServiceClient(http.DefaultClient, os.Getenv("URL")), Log: log,
			Linger: time.Millisecond, MinBackoff: 5 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
		})
	}()
	drain := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(drain)
	}()
	var wg sync.WaitGroup
	failed := make(chan error, 16)
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-drain:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				e := &audit.Event{AuditID: id, Stage: audit.StageReceived, Verb: "get", Ext: audit.Ext{Kind: audit.KindRequest, Decision: audit.Allow}}
				if err := log.Intent(ctx, e); err != nil {
					failed <- err
					return
				}
				fmt.Println(id) // one write(2): whole or not there
				e.Stage = audit.StageComplete
				log.Outcome(e)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	case err := <-shipped:
		return fmt.Errorf("shipping ended: %w", err)
	default:
	}
	// Outcomes are on disk a moment later; nothing more comes after that. If it
	// never gets there, or the test is gone, this process must not stay.
	late := time.After(time.Minute)
	for last := uint64(0); ; {
		if size := log.Size(); size == last && log.Acked() == size {
			break
		} else {
			last = size
		}
		select {
		case err := <-shipped:
			return fmt.Errorf("shipping ended: %w", err)
		case <-late:
			return fmt.Errorf("%d records acknowledged of %d after a minute", log.Acked(), log.Size())
		case <-time.After(500 * time.Millisecond):
		}
	}
	stop()
	return errors.Join(<-shipped, log.Close())
}

func crashCoordinator() error {
	a, err := coordinatortest.OpenAudit(context.Background(), coordinatortest.AuditConfig{
		Dir: os.Getenv("DIR"), Domain: shipDomain, AgentID: shipAgent, VKey: os.Getenv("VKEY"),
	})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", os.Getenv("ADDR"))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: a.Handler()}
	go srv.Serve(l)
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	return errors.Join(srv.Shutdown(context.Background()), a.Close())
}

// child is one run of a role.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string // closed when its output ends
	errs  *bytes.Buffer
}

func startChild(t *testing.T, role string, env ...string) *child {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	c := &child{cmd: exec.Command(self), lines: make(chan string, 1<<16), errs: new(bytes.Buffer)}
	c.cmd.Env = append(append(os.Environ(), roleVar+"="+role), env...)
	c.cmd.Stderr = c.errs
	c.stdin, err = c.cmd.StdinPipe()
	must(t, err)
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	must(t, c.cmd.Start())
	t.Cleanup(func() { c.cmd.Process.Kill() })
	go func() {
		defer close(c.lines)
		for r := bufio.NewReader(out); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return // a torn last line promised nothing
			}
			c.lines <- strings.TrimSuffix(line, "\n")
		}
	}()
	return c
}

// end waits for the process and checks that it ended as it should.
func (c *child) end(t *testing.T, killed bool) {
	t.Helper()
	err := c.cmd.Wait()
	if !killed && err != nil || killed && (err == nil || c.cmd.ProcessState.ExitCode() != -1) {
		t.Fatalf("%v: %s", err, c.errs)
	}
}

// TestEveryRecordArrivesOnceThroughKillsOfEitherSide kills the agent, the
// coordinator or both with SIGKILL under load, again and again. In the end the
// coordinator's copy is the agent's log, byte for byte, and every intent that an
// agent was told is durable stands in it exactly once.
func TestEveryRecordArrivesOnceThroughKillsOfEitherSide(t *testing.T) {
	l := newLink(t)
	port, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := port.Addr().String()
	must(t, port.Close())

	startCoordinator := func() *child {
		c := startChild(t, roleCoordinator, "DIR="+l.store.Dir, "VKEY="+l.store.VKey, "ADDR="+addr)
		if line, ok := <-c.lines; !ok || line != "ready" {
			c.end(t, false)
			t.Fatal("the coordinator did not start")
		}
		return c
	}
	startAgent := func() *child {
		return startChild(t, roleAgent, "DIR="+l.log.Dir, "ORIGIN="+l.origin, "KEY="+l.log.Key, "COSIGNER="+l.log.Cosigner, "URL=http://"+addr)
	}
	durable := map[string]bool{}
	take := func(c *child, n int) {
		for range n {
			id, ok := <-c.lines
			if !ok {
				c.end(t, false)
				t.Fatalf("the agent ended by itself: %s", c.errs)
			}
			durable[id] = true
		}
	}
	kill := func(c *child, agent bool) {
		must(t, c.cmd.Process.Kill())
		for id := range c.lines {
			if agent {
				durable[id] = true
			}
		}
		c.end(t, true)
	}

	coordinator, agent := startCoordinator(), startAgent()
	for round := range crashRounds {
		take(agent, 20+rand.IntN(400))
		switch round % 3 {
		case 0:
			kill(agent, true)
			agent = startAgent()
		case 1:
			kill(coordinator, false)
			take(agent, rand.IntN(200)) // the edge goes on alone
			coordinator = startCoordinator()
		case 2:
			kill(coordinator, false)
			kill(agent, true)
			coordinator, agent = startCoordinator(), startAgent()
		}
	}
	must(t, agent.stdin.Close())
	for id := range agent.lines {
		durable[id] = true
	}
	agent.end(t, false)
	must(t, coordinator.stdin.Close())
	coordinator.end(t, false)

	log, a := l.agent(), l.coordinator()
	l.equal(log, a)
	if log.Acked() != log.Size() {
		t.Errorf("%d acknowledged of %d", log.Acked(), log.Size())
	}
	recs, err := a.Records(l.origin)
	must(t, err)
	intents, outcomes := map[string]int{}, map[string]int{}
	for seq, rec := range recs {
		e, err := audit.Decode(rec)
		if err != nil {
			t.Fatalf("record %d: %v", seq, err)
		}
		if e.Stage == audit.StageReceived {
			intents[e.AuditID]++
		} else if outcomes[e.AuditID]++; intents[e.AuditID] != 1 {
			t.Errorf("%s ended before it began", e.AuditID)
		}
	}
	for id := range durable {
		if intents[id] != 1 {
			t.Errorf("intent %s stands %d times in the log", id, intents[id])
		}
	}
	for id, n := range intents {
		if n != 1 || outcomes[id] > 1 {
			t.Errorf("%s: %d intents, %d outcomes", id, n, outcomes[id])
		}
	}
	t.Logf("%d kills, %d intents known durable, %d records, %d intents without an outcome",
		crashRounds, len(durable), len(recs), len(intents)-len(outcomes))
	must(t, log.Close())
	l.stop(a)
}
