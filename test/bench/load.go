package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sallyport-mesh/sallyport/pkg/overlay"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
	"github.com/sallyport-mesh/sallyport/test/play"
)

// target is what every request asks for: one small object.
const target = "/api/v1/namespaces/default"

// loader is the load generator, seen from the process that measures.
type loader struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func startLoader(ctx context.Context, self string, p *play.Person, kubeconfig string) (*loader, error) {
	cmd := exec.CommandContext(ctx, self, "load", "--home", p.Home, "--kubeconfig", kubeconfig)
	cmd.Env = append(os.Environ(), p.Env()...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &loader{cmd, in, json.NewDecoder(bufio.NewReader(out))}, cmd.Start()
}

func (l *loader) do(o order) (Figure, error) {
	var f Figure
	if err := json.NewEncoder(l.in).Encode(o); err != nil {
		return f, err
	}
	return f, l.out.Decode(&f)
}

// Close ends the load generator: it stops when its orders do.
func (l *loader) Close() {
	l.in.Close()
	_ = l.cmd.Wait() // its figures are in; how it ends does not matter
}

// load is the load generator: an order a line in, a figure a line out.
func load(c *cli.Context) error {
	home, err := profile.Find(c.String("home"))
	if err != nil {
		return err
	}
	p, err := home.LoadSession(time.Now())
	if err != nil {
		return err
	}
	cert, err := home.Certificate(p.Session)
	if err != nil {
		return err
	}
	node, err := overlay.Join(c.Context, overlay.Config{
		Dir: home.Path("tsnet"), Hostname: "bench", ControlURL: p.Session.ControlURL, RootPEM: p.Trust(), AuthKey: p.Session.AuthKey,
	})
	if err != nil {
		return err
	}
	defer func() { _ = node.Close() }()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(p.RootPEM))
	conf, err := clientcmd.BuildConfigFromFlags("", c.String("kubeconfig"))
	if err != nil {
		return err
	}
	over := func(cluster string) way {
		host := cluster + "." + p.OverlayDomain
		return way{"https://" + host, func() (http.RoundTripper, error) {
			return &http.Transport{
				TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{*cert}},
				DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
					return node.Dial(ctx, network, addr)
				},
				ForceAttemptHTTP2: true,
			}, nil
		}}
	}
	ways := map[path]way{
		direct: {conf.Host, func() (http.RoundTripper, error) { return fresh(conf) }},
		relay:  over("plain"),
		agent:  over("edge-1"),
	}
	warm := map[path]*http.Client{}
	orders, figures := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		f, err := carryOut(c.Context, ways[o.Path], warm, o)
		if err != nil {
			f.Error = err.Error()
		}
		f.Path, f.Callers = o.Path, o.Callers
		if err := figures.Encode(f); err != nil {
			return err
		}
	}
}

// way is how to get to the apiserver on one path.
type way struct {
	url       string
	transport func() (http.RoundTripper, error)
}

// fresh is a transport that shares no connection with an earlier one.
func fresh(conf *rest.Config) (http.RoundTripper, error) {
	tc, err := rest.TLSConfigFor(conf)
	if err != nil {
		return nil, err
	}
	return &http.Transport{TLSClientConfig: tc, ForceAttemptHTTP2: true}, nil
}

func carryOut(ctx context.Context, w way, warm map[path]*http.Client, o order) (Figure, error) {
	if o.Each == 0 {
		// Before a cold request the access was taken away and given back, which
		// ends the agent's connections. The others' are made anew as well: one
		// that lived on would measure how TCP recovers.
		for _, client := range warm {
			client.CloseIdleConnections()
		}
		clear(warm)
		return cold(ctx, w)
	}
	client := warm[o.Path]
	if client == nil {
		rt, err := w.transport()
		if err != nil {
			return Figure{}, err
		}
		client = &http.Client{Transport: rt}
		// The first request waits until the way is there.
		if err := patient(ctx, client, w.url); err != nil {
			return Figure{}, err
		}
		warm[o.Path] = client
	}
	return hammer(ctx, client, w.url, o)
}

// cold is one request on a new connection, once the way is there.
func cold(ctx context.Context, w way) (Figure, error) {
	rt, err := w.transport()
	if err != nil {
		return Figure{}, err
	}
	client := &http.Client{Transport: rt}
	defer client.CloseIdleConnections()
	deadline := time.Now().Add(20 * time.Second)
	for {
		began := time.Now()
		err := get(ctx, client, w.url)
		took := time.Since(began)
		if err == nil {
			return Figure{P50: ms(took), Requests: 1}, nil
		}
		// The overlay may not have brought the agent back yet: what is refused
		// before it is asked is not a first request.
		if time.Now().After(deadline) {
			return Figure{}, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func patient(ctx context.Context, client *http.Client, url string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := get(ctx, client, url)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func hammer(ctx context.Context, client *http.Client, url string, o order) (Figure, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	took := make([][]time.Duration, o.Callers)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range o.Callers {
		wg.Go(func() {
			for time.Since(began) < o.Each && ctx.Err() == nil {
				t := time.Now()
				if err := get(ctx, client, url); err != nil {
					cancel(err)
					return
				}
				took[i] = append(took[i], time.Since(t))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(began)
	if err := context.Cause(ctx); err != nil {
		return Figure{}, err
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) == 0 {
		return Figure{}, errors.New("no request was answered")
	}
	return Figure{
		PerSec: float64(len(all)) / elapsed.Seconds(), Requests: len(all),
		P50: ms(all[len(all)/2]), P99: ms(all[len(all)*99/100]),
	}, nil
}

func get(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+target, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %.300s", res.Status, body)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
