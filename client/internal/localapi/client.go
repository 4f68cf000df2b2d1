package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// Client talks to the daemon of a home.
type Client struct {
	http *http.Client
}

// NewClient is a client of the socket at path. It does not connect.
func NewClient(path string) *Client {
	return &Client{&http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
	}}}
}

// ErrNotRunning says that there is no daemon: no socket, or one that a daemon
// left behind when it was killed.
var ErrNotRunning = errors.New("the sallyport daemon is not running")

// patience is for every question but Settled, whose caller says how long. A daemon
// that is alive answers sooner.
const patience = 20 * time.Second

// ErrSilent says that there is a daemon which does not answer: it hangs, or
// somebody stopped it.
var ErrSilent = errors.New("the sallyport daemon does not answer")

// Status asks what the daemon is doing.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.do(ctx, http.MethodGet, "/v1/status", &s)
}

// Settled waits until the daemon has joined or given up.
func (c *Client) Settled(ctx context.Context) (s Status, err error) {
	return s, c.ask(ctx, http.MethodGet, "/v1/status?settled=1", &s)
}

// Access asks whether a cluster is open.
func (c *Client) Access(ctx context.Context, cluster string) (a Access, err error) {
	return a, c.do(ctx, http.MethodGet, "/v1/access?cluster="+url.QueryEscape(cluster), &a)
}

// Reload makes the daemon take up the session that is in the home now.
func (c *Client) Reload(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/v1/reload", nil)
}

// Stop tells the daemon to end.
func (c *Client) Stop(ctx context.Context) error {
	return c.do(ctx, http.MethodPost, "/v1/stop", nil)
}

// do is ask for those who have no time.
func (c *Client) do(ctx context.Context, method, path string, out any) error {
	bounded, cancel := context.WithTimeoutCause(ctx, patience, ErrSilent)
	defer cancel()
	err := c.ask(bounded, method, path, out)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(bounded), ErrSilent) {
		return process.Hint(ErrSilent, "look for it with ps, kill it, and go on: the next one takes over")
	}
	return err
}

// ask asks once more where the daemon was killed under the question: the second
// time nobody listens, or already another.
func (c *Client) ask(ctx context.Context, method, path string, out any) error {
	err := c.once(ctx, method, path, out)
	var transport *url.Error
	if errors.As(err, &transport) && ctx.Err() == nil {
		err = c.once(ctx, method, path, out)
	}
	return err
}

func (c *Client) once(ctx context.Context, method, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://daemon"+path, nil)
	if err != nil {
		return fmt.Errorf("asking the daemon: %w", err)
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return ErrNotRunning
	case err != nil:
		return fmt.Errorf("asking the daemon: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("asking the daemon: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the daemon says: %s", strings.TrimSpace(string(body)))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("reading the daemon's answer: %w", err)
	}
	return nil
}
