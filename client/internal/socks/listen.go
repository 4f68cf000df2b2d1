package socks

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"

	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// Credentials are where the listener is and what it asks for.
type Credentials struct {
	// Address is 127.0.0.1 and the port.
	Address  netip.AddrPort `json:"address"`
	User     string         `json:"user"`
	Password string         `json:"password"`
}

// URL is the proxy-url for kubeconfig. It holds the password.
func (c Credentials) URL() string {
	u := url.URL{Scheme: "socks5", User: url.UserPassword(c.User, c.Password), Host: c.Address.String()}
	return u.String()
}

// Load reads what an earlier Listen left in the file.
func Load(path string) (Credentials, error) {
	var c Credentials
	data, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("reading proxy's credentials: %w", err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("reading %s: %w", path, err)
	}
	if c.Address.Addr() != loopback || c.User == "" || len(c.Password) < 20 {
		return c, fmt.Errorf("reading %s: it is not what this program wrote", path)
	}
	return c, nil
}

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Listen listens where the file says, or, without a file or when that port is
// taken, on a new port with a new password, and writes the file.
func Listen(ctx context.Context, path string) (net.Listener, Credentials, error) {
	var lc net.ListenConfig
	c, err := Load(path)
	switch {
	case err == nil:
		if ln, err := lc.Listen(ctx, "tcp4", c.Address.String()); err == nil {
			return ln, c, nil
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, Credentials{}, err
	}

	ln, err := listenAnywhere(ctx)
	if err != nil {
		return nil, Credentials{}, fmt.Errorf("listening for kubectl: %w", err)
	}
	port := uint16(ln.Addr().(*net.TCPAddr).Port)
	c = Credentials{
		Address:  netip.AddrPortFrom(loopback, port),
		User:     "sallyport",
		Password: rand.Text() + rand.Text(), // 26 characters of 130 bits each
	}
	data, err := json.Marshal(c)
	if err == nil {
		err = pki.WriteFile(path, append(data, '\n'))
	}
	if err != nil {
		ln.Close()
		return nil, Credentials{}, fmt.Errorf("writing proxy's credentials: %w", err)
	}
	return ln, c, nil
}

// Ports that systems do not hand out by themselves: one of those would be somebody
// else's now and then while the daemon is away.
const firstPort, lastPort = 20000, 32000

func listenAnywhere(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	for range 20 {
		port := firstPort + mathrand.N(lastPort-firstPort)
		if ln, err := lc.Listen(ctx, "tcp4", netip.AddrPortFrom(loopback, uint16(port)).String()); err == nil {
			return ln, nil
		}
	}
	return lc.Listen(ctx, "tcp4", netip.AddrPortFrom(loopback, 0).String())
}
