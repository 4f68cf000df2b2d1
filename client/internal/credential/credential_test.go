package credential

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientauth "k8s.io/client-go/pkg/apis/clientauthentication/v1"

	"github.com/sallyport-mesh/sallyport/client/internal/clienttest"
	"github.com/sallyport-mesh/sallyport/client/internal/localapi"
	"github.com/sallyport-mesh/sallyport/client/internal/login"
	"github.com/sallyport-mesh/sallyport/pkg/process"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// daemon answers as it is told to.
type daemon struct{ access map[string]localapi.Access }

func (d daemon) Access(_ context.Context, cluster string) localapi.Access {
	return d.access[cluster]
}
func (daemon) Status(context.Context) (s localapi.Status)      { return s }
func (daemon) Settled(ctx context.Context) (s localapi.Status) { return s }
func (daemon) Reload(context.Context) error                    { return nil }
func (daemon) Stop()                                           {}

func loggedIn(t *testing.T) (profile.Home, *profile.Profile) {
	t.Helper()
	c := clienttest.Start(t)
	home, err := profile.Find(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := login.Run(t.Context(), login.Config{
		Home: home, Link: c.Link, Terminal: io.Discard, Timeout: 30 * time.Second, Version: "test",
		Open: func(ctx context.Context, url string) error {
			go func() { _, _ = c.Browse(context.WithoutCancel(ctx), url) }()
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return home, p
}

func serve(t *testing.T, access map[string]localapi.Access) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "daemon.sock")
	ln, err := localapi.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- localapi.Serve(ctx, ln, os.Getuid(), daemon{access}, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() { cancel(); <-ended })
	return socket
}

func config(home profile.Home, socket, cluster string) Config {
	return Config{
		Home: home, Daemon: localapi.NewClient(socket), Cluster: cluster,
		Start: func(context.Context) error { return localapi.ErrNotRunning },
	}
}

func TestKubectlGetsTheSessionsCertificate(t *testing.T) {
	home, p := loggedIn(t)
	socket := serve(t, map[string]localapi.Access{"edge-1": {State: localapi.Joined, Open: true}})
	var first, second bytes.Buffer
	if err := Write(t.Context(), config(home, socket, "edge-1"), &first); err != nil {
		t.Fatal(err)
	}
	if err := Write(t.Context(), config(home, socket, "edge-1"), &second); err != nil {
		t.Fatal(err)
	}
	if first.String() != second.String() {
		t.Error("two calls give two answers: client-go would drop its connections")
	}
	var got clientauth.ExecCredential
	dec := json.NewDecoder(&first)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&got); err != nil {
		t.Fatal(err)
	}
	if got.APIVersion != "client.authentication.k8s.io/v1" || got.Kind != "ExecCredential" || got.Status.Token != "" {
		t.Errorf("answer %+v", got)
	}
	if !got.Status.ExpirationTimestamp.Time.Equal(p.Session.Expires.Truncate(time.Second)) {
		t.Errorf("expires %v, session %v", got.Status.ExpirationTimestamp, p.Session.Expires)
	}
	pair, err := tls.X509KeyPair([]byte(got.Status.ClientCertificateData), []byte(got.Status.ClientKeyData))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(pair.Leaf.URIs[0].Path, p.Session.DeviceID) {
		t.Errorf("certificate for %v", pair.Leaf.URIs)
	}
}

func TestWhatStandsInTheWayIsOneSentence(t *testing.T) {
	home, _ := loggedIn(t)
	socket := serve(t, map[string]localapi.Access{
		"closed":    {State: localapi.Joined},
		"suspended": {State: localapi.Ended, Problem: "shivam is suspended", Hint: "ask an administrator"},
		"away":      {State: localapi.Joined, Open: true, Silent: true},
		"alone":     {State: localapi.Joined, Open: true, Silent: true, Problem: "nothing listens at https://c"},
		"lost":      {State: localapi.Joining, Problem: "the coordinator took this device off the overlay", Open: true},
	})
	for name, test := range map[string]struct{ socket, cluster, want, hint string }{
		"closed": {socket, "closed", `no cluster "closed" is open to you`, "sallyport clusters shows those that are"},
		"away":   {socket, "away", "no agent of away answers: it is offline", "sallyport status shows when it is back; ask who runs the cluster"},
		"alone": {
			socket, "alone", "no agent of alone answers, and the coordinator, whose relay may be what is missing, is not heard: nothing listens at https://c",
			"sallyport status",
		},
		"no daemon": {socket + "x", "edge-1", "the sallyport daemon is not running", "sallyport up"},
		"suspended": {socket, "suspended", "shivam is suspended", "ask an administrator"},
		"lost":      {socket, "lost", "not on the overlay: the coordinator took this device off the overlay", "sallyport status shows when it has joined"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := Write(t.Context(), config(home, test.socket, test.cluster), &out)
			if err == nil || err.Error() != test.want {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if h := process.Hints(err); len(h) != 1 || h[0] != test.hint {
				t.Errorf("hints %q, want %q", h, test.hint)
			}
			if out.Len() != 0 {
				t.Errorf("wrote %s", &out)
			}
		})
	}
}

// A cluster that is closed and one that does not exist read the same.
func TestClosedAndMissingClustersReadTheSame(t *testing.T) {
	home, _ := loggedIn(t)
	socket := serve(t, map[string]localapi.Access{"other": {State: localapi.Joined}, "nothing": {State: localapi.Joined}})
	closed := Write(t.Context(), config(home, socket, "other"), io.Discard)
	missing := Write(t.Context(), config(home, socket, "nothing"), io.Discard)
	if strings.ReplaceAll(closed.Error(), "other", "X") != strings.ReplaceAll(missing.Error(), "nothing", "X") {
		t.Errorf("%v, %v", closed, missing)
	}
}

func TestNoSessionNoKey(t *testing.T) {
	home, err := profile.Find(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	socket := serve(t, map[string]localapi.Access{"edge-1": {State: localapi.Joined, Open: true}})
	if err := Write(t.Context(), config(home, socket, "edge-1"), io.Discard); !errors.Is(err, profile.ErrNotLoggedIn) {
		t.Errorf("error %v", err)
	}
}
