package tailnet

import (
	"net"
	"net/netip"

	"tailscale.com/net/stun"
)

// serveSTUN tells nodes which address their packets come from, until the port
// is closed. An answer is smaller than twice the question, so that it is of no
// use for flooding others.
func (s *Server) serveSTUN() {
	conn := s.stun.(*net.UDPConn)
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if s.ctx.Err() == nil {
				s.log.Error("STUN ended", "error", err)
			}
			return
		}
		tx, err := stun.ParseBindingRequest(buf[:n])
		if err != nil {
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if _, err := conn.WriteToUDPAddrPort(stun.Response(tx, from), from); err != nil {
			s.log.Debug("answering STUN failed", "to", from, "error", err)
		}
	}
}
