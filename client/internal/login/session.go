package login

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/profile"
)

// check refuses an answer that would only fail later, at a cluster, where it
// would be hard to understand.
func check(r *apiv1.EnrollDeviceResponse, d *apiv1.DiscoverResponse, key *ecdsa.PrivateKey) (*profile.Session, error) {
	cert, err := pki.Certificate([]byte(r.GetCertificateChainPem()), key)
	if err != nil {
		return nil, err
	}
	who, err := identity.ParseUser(d.GetTrustDomain(), cert.Leaf)
	if err != nil {
		return nil, err
	}
	if who.UserID != r.GetUserId() || who.DeviceID != r.GetDeviceId() || who.SessionID != r.GetSessionId() {
		return nil, errors.New("its certificate is for somebody else")
	}
	if strings.TrimSpace(r.GetRootPem()) != strings.TrimSpace(d.GetRootPem()) || r.GetOverlayDomain() != d.GetOverlayDomain() {
		return nil, errors.New("it belongs to another root or overlay than was announced")
	}
	if err := verify(r); err != nil {
		return nil, err
	}
	if u, err := url.Parse(r.GetControlUrl()); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("its control URL is %q", r.GetControlUrl())
	}
	expires := r.GetExpiresAt().AsTime()
	if cert.Leaf.NotAfter.Before(expires) {
		expires = cert.Leaf.NotAfter
	}
	if !time.Now().Before(expires) {
		return nil, fmt.Errorf("it was over at %s; is this machine's clock right?", expires.Local().Format(time.DateTime))
	}
	return &profile.Session{
		ID:         r.GetSessionId(),
		UserID:     r.GetUserId(),
		UserName:   r.GetUserName(),
		DeviceID:   r.GetDeviceId(),
		Expires:    expires,
		ChainPEM:   r.GetCertificateChainPem(),
		ControlURL: r.GetControlUrl(),
		AuthKey:    r.GetAuthKey(),
	}, nil
}

func verify(r *apiv1.EnrollDeviceResponse) error {
	chain, err := pki.ParseChain([]byte(r.GetCertificateChainPem()))
	if err != nil {
		return err
	}
	roots, err := pki.ParseRoot([]byte(r.GetRootPem()), "")
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: between,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return fmt.Errorf("verifying its certificate: %w", err)
	}
	return nil
}
