package identity

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// UserCert is what a user's certificate says.
type UserCert struct {
	TrustDomain string
	UserID      string
	DeviceID    string
	SessionID   string
	Generation  uint64
}

// AgentCert is what an agent's certificate says.
type AgentCert struct {
	TrustDomain string
	ClusterID   string
	AgentID     string
}

// URI is the SPIFFE ID spiffe://<trust domain>/user/<id>/device/<id>.
func (c UserCert) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: c.TrustDomain, Path: "/user/" + c.UserID + "/device/" + c.DeviceID}
}

// URI is the SPIFFE ID spiffe://<trust domain>/cluster/<id>/agent/<id>.
func (c AgentCert) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: c.TrustDomain, Path: "/cluster/" + c.ClusterID + "/agent/" + c.AgentID}
}

// sessionOID marks the extension that holds the session and the generation.
// The arc is under 2.25, which anyone may use, at the number that "Sall" spells.
var sessionOID = asn1.ObjectIdentifier{2, 25, 1398893676, 1}

type sessionExtension struct {
	Session    string `asn1:"utf8"`
	Generation int64
}

// SessionExtension is the extension that a user's certificate carries.
func (c UserCert) SessionExtension() (pkix.Extension, error) {
	if !IsID(Session, c.SessionID) || int64(c.Generation) < 0 {
		return pkix.Extension{}, fmt.Errorf("no session extension for session %q, generation %d", c.SessionID, c.Generation)
	}
	der, err := asn1.Marshal(sessionExtension{c.SessionID, int64(c.Generation)})
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encoding session extension: %w", err)
	}
	return pkix.Extension{Id: sessionOID, Value: der}, nil
}

// ErrNotOurs says that a certificate names nobody of ours.
var ErrNotOurs = errors.New("certificate names no identity of this trust domain")

// ParseUser reads a user's certificate. It does not verify the chain.
func ParseUser(trustDomain string, cert *x509.Certificate) (UserCert, error) {
	parts, err := spiffePath(trustDomain, cert)
	if err != nil {
		return UserCert{}, err
	}
	if len(parts) != 4 || parts[0] != "user" || parts[2] != "device" || !IsID(User, parts[1]) || !IsID(Device, parts[3]) {
		return UserCert{}, ErrNotOurs
	}
	c := UserCert{TrustDomain: trustDomain, UserID: parts[1], DeviceID: parts[3]}
	found := false
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(sessionOID) {
			continue
		}
		var s sessionExtension
		rest, err := asn1.Unmarshal(ext.Value, &s)
		if err != nil || len(rest) != 0 || found || s.Generation < 0 || !IsID(Session, s.Session) {
			return UserCert{}, ErrNotOurs
		}
		c.SessionID, c.Generation, found = s.Session, uint64(s.Generation), true
	}
	if !found {
		return UserCert{}, ErrNotOurs
	}
	return c, nil
}

// ParseAgent reads an agent's certificate. It does not verify the chain.
func ParseAgent(trustDomain string, cert *x509.Certificate) (AgentCert, error) {
	parts, err := spiffePath(trustDomain, cert)
	if err != nil {
		return AgentCert{}, err
	}
	if len(parts) != 4 || parts[0] != "cluster" || parts[2] != "agent" || !IsID(Cluster, parts[1]) || !IsID(AgentID, parts[3]) {
		return AgentCert{}, ErrNotOurs
	}
	return AgentCert{TrustDomain: trustDomain, ClusterID: parts[1], AgentID: parts[3]}, nil
}

func spiffePath(trustDomain string, cert *x509.Certificate) ([]string, error) {
	if trustDomain == "" || cert == nil || len(cert.URIs) != 1 {
		return nil, ErrNotOurs
	}
	u := cert.URIs[0]
	if u.Scheme != "spiffe" || u.Host != trustDomain || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.RawPath != "" || u.Opaque != "" {
		return nil, ErrNotOurs
	}
	return strings.Split(strings.TrimPrefix(u.Path, "/"), "/"), nil
}
