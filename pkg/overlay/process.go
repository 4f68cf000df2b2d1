package overlay

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"

	"tailscale.com/envknob"
	"tailscale.com/net/netns"
)

// knobs are tsnet's switches that have no field in tsnet.Server. They are read
// when a node starts, so they are set before the first one does.
var knobs = []struct{ name, value, why string }{
	// Otherwise every connection to the coordinator first tries plain HTTP on
	// port 80 of its host, and waits half a second for it.
	{"TS_FORCE_NOISE_443", "1", "the control protocol goes over the coordinator's TLS port"},
	// Port mapping speaks to the local router (NAT-PMP, PCP, UPnP).
	{"TS_DISABLE_PORTMAPPER", "1", "no packets to routers that did not ask for them"},
}

var process struct {
	mu      sync.Mutex
	started bool
	root    [sha256.Size]byte // of the private root in force; zero is none
}

// configureProcess sets what tsnet reads from the process: its knobs, no log
// upload, no socket marks, and the private root. It is safe to call for each
// node.
func configureProcess(controlURL *url.URL, rootPEM []byte) error {
	process.mu.Lock()
	defer process.mu.Unlock()
	if !process.started {
		for _, k := range knobs {
			if _, set := os.LookupEnv(k.name); !set {
				envknob.Setenv(k.name, k.value)
			}
		}
		envknob.SetNoLogsNoSupport()
		// netns marks sockets so that a system-wide tunnel does not swallow the
		// tunnel's own packets. There is none here, and the mark needs root.
		netns.SetEnabled(false)
		process.started = true
	}
	if isLoopback(controlURL.Hostname()) && !envknob.AssumeNetworkUp() {
		// tsnet pauses while no interface but loopback is up; a coordinator on
		// loopback is reachable all the same.
		envknob.Setenv("TS_ASSUME_NETWORK_UP_FOR_TEST", "1")
	}
	if len(bytes.TrimSpace(rootPEM)) == 0 && isAddress(controlURL.Hostname()) && controlURL.Scheme == "https" {
		// See trustRoot: without a root of its own, nothing would tell it apart.
		return fmt.Errorf("control URL %s has an address instead of a name: that needs the coordinator's private root", controlURL)
	}
	return trustRoot(rootPEM)
}

// trustRoot makes a private root the only one that this process verifies servers
// with, unless it says otherwise.
//
// tsnet has no setting for roots: control and DERP connections verify with the
// process's own, which x509.SetFallbackRoots replaces, once, when the GODEBUG
// setting x509usefallbackroots says so. The system's roots are not kept beside
// it: tsnet does not compare names where the URL has an address, so a
// certificate for any name would do. process.mu is held.
func trustRoot(rootPEM []byte) error {
	if len(bytes.TrimSpace(rootPEM)) == 0 {
		return nil
	}
	sum := sha256.Sum256(bytes.TrimSpace(rootPEM))
	if process.root == sum {
		return nil
	}
	if process.root != [sha256.Size]byte{} {
		return errors.New("this process already trusts another private root: one process joins the overlay of one root")
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(rootPEM) {
		return errors.New("the private root holds no certificate in PEM")
	}
	if err := withGODEBUG("x509usefallbackroots=1", func() error { return setFallbackRoots(pool) }); err != nil {
		return err
	}
	dropBakedRoots()
	process.root = sum
	return nil
}

// withGODEBUG calls f while the setting is added to GODEBUG.
func withGODEBUG(setting string, f func() error) error {
	before, had := os.LookupEnv("GODEBUG")
	if err := os.Setenv("GODEBUG", strings.TrimPrefix(before+","+setting, ",")); err != nil {
		return fmt.Errorf("setting GODEBUG: %w", err)
	}
	err := f()
	if had {
		return errors.Join(err, os.Setenv("GODEBUG", before))
	}
	return errors.Join(err, os.Unsetenv("GODEBUG"))
}

// setFallbackRoots turns the panic of a second call, which means that another
// package of this process has set roots of its own, into an error.
func setFallbackRoots(pool *x509.CertPool) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("trusting the private root: %v", p)
		}
	}()
	x509.SetFallbackRoots(pool)
	return nil
}

func isAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// parseControlURL accepts what the coordinator calls itself: https, a host and
// perhaps a port. Plain http is for loopback only.
func parseControlURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("parsing control URL: %w", err)
	case u.Host == "" || u.Hostname() == "":
		return nil, fmt.Errorf("control URL %q names no host", s)
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.User != nil:
		return nil, fmt.Errorf("control URL %q must be a scheme, a host and a port only", s)
	case u.Scheme == "https":
	case u.Scheme == "http" && isLoopback(u.Hostname()):
	default:
		return nil, fmt.Errorf("control URL %q must be https", s)
	}
	if port := u.Port(); port != "" {
		if _, err := net.LookupPort("tcp", port); err != nil {
			return nil, fmt.Errorf("control URL %q: %w", s, err)
		}
	}
	return u, nil
}
