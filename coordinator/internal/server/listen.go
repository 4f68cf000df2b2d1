package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/ca"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/config"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// listen opens a TCP address, or says in one line why it cannot be had.
func listen(key, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, process.Hint(fmt.Errorf("%s: %s is in use by another process", key, addr),
			"stop that process, or choose another address with --"+key)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: opening %s: %w", key, addr, err)
	}
	return ln, nil
}

// checkUDP says in one line why a UDP address cannot be had. The overlay opens
// it for itself, later.
func checkUDP(key, addr string) error {
	conn, err := net.ListenPacket("udp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return process.Hint(fmt.Errorf("%s: UDP %s is in use by another process", key, addr),
			"stop that process, or choose another address for "+key+" in the configuration")
	}
	if err != nil {
		return fmt.Errorf("%s: opening UDP %s: %w", key, addr, err)
	}
	return conn.Close()
}

// certificates gives the coordinator's own certificate for each handshake: a
// file's, read again when it changes, or one of our authority's, made anew when
// a third of its life is left.
type certificates struct {
	files config.TLS
	ca    *ca.Authority
	hosts []string

	mu      sync.Mutex
	current *tls.Certificate
	modTime time.Time
}

func newCertificates(files config.TLS, authority *ca.Authority, hosts []string) (*certificates, error) {
	c := &certificates{files: files, ca: authority, hosts: hosts}
	_, err := c.get(nil)
	return c, err
}

func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files.CertFile != "" {
		return c.fromFiles()
	}
	if c.current != nil {
		life := c.current.Leaf.NotAfter.Sub(c.current.Leaf.NotBefore)
		if time.Until(c.current.Leaf.NotAfter) > life/3 {
			return c.current, nil
		}
	}
	cert, err := c.ca.Server(c.hosts)
	if err != nil {
		return nil, err
	}
	c.current = cert
	return cert, nil
}

// fromFiles keeps serving the last good pair while a new one is half written.
func (c *certificates) fromFiles() (*tls.Certificate, error) {
	info, err := os.Stat(c.files.CertFile)
	if err == nil && c.current != nil && info.ModTime().Equal(c.modTime) {
		return c.current, nil
	}
	if err == nil {
		var cert tls.Certificate
		if cert, err = tls.LoadX509KeyPair(c.files.CertFile, c.files.KeyFile); err == nil {
			c.current, c.modTime = &cert, info.ModTime()
			return c.current, nil
		}
	}
	if c.current != nil {
		return c.current, nil
	}
	return nil, fmt.Errorf("configuration: tls: %w", err)
}
