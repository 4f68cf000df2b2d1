package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/sallyport-mesh/sallyport/test/devcluster/internal/component"
)

// Info tells where a running cluster is. The run command prints it as one line of JSON when the
// cluster is ready.
type Info struct {
	Name       string `json:"name"`
	Kubeconfig string `json:"kubeconfig"`
	APIServer  string `json:"apiServer"`
	AuditLog   string `json:"auditLog"`
	Node       string `json:"node"`
}

// stopGrace is how long components get to end by themselves. Etcd is made to be killed and the
// others keep nothing, so waiting longer would only be politeness.
const stopGrace = 3 * time.Second

// Run starts the cluster, calls ready once it is, and supervises it until ctx ends. When a
// component ends by itself, Run stops the others and returns an error.
func Run(ctx context.Context, o Options, progress io.Writer, ready func(Info) error) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	began := time.Now()
	supervisor, components, err := o.acquire(ctx)
	if err != nil {
		return err
	}
	defer supervisor.Close()
	defer components.Close()
	say := func(format string, args ...any) {
		fmt.Fprintf(progress, "%s: %s (%.1f s)\n", o.Name, fmt.Sprintf(format, args...), time.Since(began).Seconds())
	}

	s, listeners, err := o.prepare(say)
	if err != nil {
		return err
	}
	r := &run{o: o, components: components, failed: make(chan error, 16)}
	defer r.stop()
	defer os.Remove(o.path(ProcessFile))
	etcd, apiServer, rest := specs(s)
	if r.etcd, err = r.start(etcd, nil); err != nil {
		return err
	}
	steps, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-r.failed:
			cancel(err)
		case <-steps.Done():
		}
	}()
	fail := func(err error) error {
		if ctx.Err() != nil {
			return nil // asked to stop while starting
		}
		if cause := context.Cause(steps); cause != nil {
			return cause
		}
		return err
	}
	// The apiserver would find out by itself, but waits a second between its attempts.
	if err := o.waitForEtcd(steps); err != nil {
		return fail(err)
	}
	if err := r.add(apiServer, listeners.api); err != nil {
		return err
	}
	c, err := o.connect()
	if err != nil {
		return err
	}
	if err := c.waitForAPIServer(steps); err != nil {
		return fail(err)
	}
	say("apiserver is ready on %s", s.apiServer())
	if err := c.registerNode(steps, s.NodeName); err != nil {
		return fail(err)
	}
	for _, spec := range rest {
		l := listeners.kubelet
		if !spec.listener {
			l = nil
		}
		if err := r.add(spec, l); err != nil {
			return err
		}
	}
	if err := r.writeProcesses(); err != nil {
		return err
	}
	if err := c.waitForNode(steps, s.NodeName); err != nil {
		return fail(err)
	}
	if err := c.waitForDefaultAccount(steps); err != nil {
		return fail(err)
	}
	say("node %s is ready", s.NodeName)
	if err := ready(Info{
		Name: s.Name, Kubeconfig: o.path(AdminKubeconfig), APIServer: s.apiServer(),
		AuditLog: o.path(AuditLog), Node: s.NodeName,
	}); err != nil {
		return fmt.Errorf("reporting readiness: %w", err)
	}
	<-steps.Done()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(steps)
}

type listeners struct{ api, kubelet *net.TCPListener }

// prepare opens the ports and makes what a first start needs.
func (o Options) prepare(say func(string, ...any)) (state, listeners, error) {
	var l listeners
	s, resumed, err := o.open()
	if err != nil {
		return s, l, err
	}
	if l.api, err = listen(s.APIServerPort); err == nil {
		l.kubelet, err = listen(s.KubeletPort)
	}
	if err != nil {
		return s, l, fmt.Errorf("opening the cluster's port: %w", err)
	}
	if !resumed {
		s = state{
			Name: o.Name, NodeName: o.NodeName,
			APIServerPort: l.api.Addr().(*net.TCPAddr).Port,
			KubeletPort:   l.kubelet.Addr().(*net.TCPAddr).Port,
		}
		if err := o.create(s); err != nil {
			return s, l, err
		}
		say("made keys for a new cluster")
	}
	// A killed etcd leaves its sockets behind; their being there is what says it is up.
	for _, socket := range component.EtcdSockets {
		if err := os.RemoveAll(o.path(socket)); err != nil {
			return s, l, fmt.Errorf("removing stale socket: %w", err)
		}
	}
	for _, dir := range []string{logDir, nodeDir} {
		if err := os.MkdirAll(o.path(dir), 0o700); err != nil {
			return s, l, fmt.Errorf("making %s: %w", dir, err)
		}
	}
	return s, l, writeFile(o.path(auditPolicyFile), auditPolicy)
}

// run is the set of processes of one Run.
type run struct {
	o          Options
	components *os.File
	failed     chan error

	mu    sync.Mutex
	etcd  *process
	above []*process // all that need etcd
}

func (r *run) start(s spec, l *net.TCPListener) (*process, error) {
	var file *os.File
	if l != nil {
		var err error
		if file, err = l.File(); err != nil {
			return nil, fmt.Errorf("passing listener to %s: %w", s.name, err)
		}
		// From here on the component alone holds the port: when it dies, connections are
		// refused rather than left waiting.
		defer l.Close()
		defer file.Close()
	}
	p, err := r.o.startProcess(s, r.components, file)
	if err != nil {
		return nil, err
	}
	go func() {
		<-p.done
		r.failed <- p.failure()
	}()
	return p, nil
}

func (r *run) add(s spec, l *net.TCPListener) error {
	p, err := r.start(s, l)
	if err != nil {
		return err
	}
	r.above = append(r.above, p)
	return nil
}

func (r *run) stop() {
	stop(stopGrace, r.above...)
	if r.etcd != nil {
		stop(stopGrace, r.etcd)
	}
}

func (r *run) writeProcesses() error {
	pids := map[string]int{"supervisor": os.Getpid(), r.etcd.name: r.etcd.pid}
	for _, p := range r.above {
		pids[p.name] = p.pid
	}
	raw, err := json.MarshalIndent(pids, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding process ids: %w", err)
	}
	return writeFile(r.o.path(ProcessFile), append(raw, '\n'))
}

var errNotReady = errors.New("not ready")
