package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/policy"
)

// Step 2, identify: the certificate says user and device, the overlay says
// device and user, and both must say the same.

// whoIsTimeout bounds one WhoIs: 2 s, where it usually takes microseconds.
const whoIsTimeout = 2 * time.Second

var errNotTheDevice = errors.New("the certificate is not this device's")

// verifyConnection runs inside the handshake, after the chain and the key usage
// were verified. A certificate that names nobody, or a device that the
// connection does not come from, gets no further. A session that was ended
// completes the handshake, to be told so in words: its every request is refused.
func (p *Proxy) verifyConnection(remote netip.AddrPort, state tls.ConnectionState) error {
	conn, err := p.readConnection(remote, state)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(p.ctx, whoIsTimeout)
	defer cancel()
	if err := p.checkDevice(ctx, conn); errors.Is(err, errNotTheDevice) {
		p.log.Warn("certificate and overlay node are of different devices",
			"user", conn.user.UserID, "device", conn.user.DeviceID, "remote", remote.Addr())
		return err
	}
	return nil
}

// readConnection reads the identity out of a verified TLS connection.
func (p *Proxy) readConnection(remote netip.AddrPort, state tls.ConnectionState) (*connection, error) {
	if !state.HandshakeComplete && state.Version == 0 || state.DidResume || len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return nil, errors.New("no verified client certificate")
	}
	leaf := state.PeerCertificates[0]
	if leaf.IsCA {
		return nil, errors.New("a CA's certificate is nobody's")
	}
	user, err := identity.ParseUser(p.cfg.TrustDomain, leaf)
	if err != nil {
		return nil, fmt.Errorf("reading client certificate: %w", err)
	}
	return &connection{remote: remote, user: user, serial: leaf.SerialNumber.Text(16), chain: state.PeerCertificates}, nil
}

// checkDevice asks the overlay. errNotTheDevice means that it knows better;
// any other error that it could not say.
func (p *Proxy) checkDevice(ctx context.Context, c *connection) error {
	peer, err := p.cfg.Identify(ctx, c.remote)
	if err != nil {
		return fmt.Errorf("asking the overlay who this is: %w", err)
	}
	if peer.DeviceID == "" || peer.UserID == "" || peer.DeviceID != c.user.DeviceID || peer.UserID != c.user.UserID {
		return errNotTheDevice
	}
	return nil
}

// identify looks again at everything that can have changed since the handshake.
func (x *exchange) identify(r interface{ Context() context.Context }) *refusal {
	conn, ok := r.Context().Value(connectionKey{}).(*connection)
	if !ok {
		return unauthorized("there is no client certificate of a user on this connection")
	}
	x.conn = conn
	ctx, cancel := context.WithTimeout(r.Context(), whoIsTimeout)
	defer cancel()
	switch err := x.p.checkDevice(ctx, conn); {
	case errors.Is(err, errNotTheDevice):
		return unauthorized("the client certificate is not this device's: run 'sallyport login' on this device")
	case err != nil:
		x.p.log.Error("overlay cannot identify a peer", "remote", conn.remote.Addr(), "error", err)
		return soon("the overlay cannot say whose device this is")
	}
	return x.p.checkSession(x.p.cfg.Policies.Current(), conn)
}

// checkSession holds the certificate against the clock, the CAs, the deny-set and
// the auth generation of a policy.
func (p *Proxy) checkSession(pol *policy.Policy, conn *connection) *refusal {
	now, leaf := p.now(), conn.chain[0]
	if now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return unauthorized("your session has ended: run 'sallyport login'")
	}
	if !p.stillIssued(conn, now) {
		return unauthorized("your certificate's issuer is no longer trusted: run 'sallyport login'")
	}
	if pol == nil {
		return soon("this cluster's agent holds no policy yet")
	}
	// A review of one's own rights is allowed to everyone who may do anything
	// here, so what refuses it is about the person, device or session.
	d := pol.Decide(policy.Attributes{
		UserID: conn.user.UserID, DeviceID: conn.user.DeviceID, SessionID: conn.user.SessionID, Generation: conn.user.Generation,
		ResourceRequest: true, Verb: "create", APIGroup: "authorization.k8s.io", APIVersion: "v1", Resource: "selfsubjectrulesreviews",
	})
	if !d.Allowed {
		return denied(d)
	}
	return nil
}

// stillIssued verifies the chain again where the CAs have changed since it was
// verified last: a connection must not outlive the CA that let it in.
func (p *Proxy) stillIssued(conn *connection, now time.Time) bool {
	cas, was := p.cfg.Policies.UserCAs(), conn.cas.Load()
	if cas == nil {
		return false
	}
	if cas == was || (was != nil && cas.Equal(was)) {
		return true
	}
	intermediates := x509.NewCertPool()
	for _, c := range conn.chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := conn.chain[0].Verify(x509.VerifyOptions{
		Roots: cas, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return false
	}
	conn.cas.Store(cas)
	return true
}
