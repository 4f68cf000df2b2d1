package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// portFile keeps the node's UDP port in its directory. A node that comes back on
// the port it had is found at once by peers that sent to it a moment ago; on
// another, they go on sending to the old one for some seconds.
const portFile = "udp-port"

// choosePort gives the port that the node had, or else one that is free. It is a
// wish: if the port is taken by the time tsnet binds it, tsnet takes another.
func choosePort(dir string) (uint16, error) {
	name := filepath.Join(dir, portFile)
	b, err := os.ReadFile(name)
	switch {
	case err == nil:
		if port, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 16); err == nil && port != 0 {
			return uint16(port), nil
		}
	case !errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("reading the overlay's port: %w", err)
	}
	conn, err := net.ListenUDP("udp", nil)
	if err != nil {
		return 0, fmt.Errorf("finding a port for the overlay: %w", err)
	}
	port := uint16(conn.LocalAddr().(*net.UDPAddr).Port)
	if err := conn.Close(); err != nil {
		return 0, fmt.Errorf("finding a port for the overlay: %w", err)
	}
	if err := os.WriteFile(name, fmt.Appendf(nil, "%d\n", port), 0o600); err != nil {
		return 0, fmt.Errorf("keeping the overlay's port: %w", err)
	}
	return port, nil
}
