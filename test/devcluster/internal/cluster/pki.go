package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

const pkiDir = "pki"

// keyLife is longer than any devcluster's; it is never renewed.
const keyLife = 5 * 365 * 24 * time.Hour

// kubeletClient is the name the apiserver has towards the node, which lets in no other.
const kubeletClient = "kube-apiserver-kubelet-client"

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// client names a component's or person's client certificate.
type client struct{ file, commonName, organization string }

// clients all get a kubeconfig of their own, but for the kubelet client.
var clients = []client{
	{"admin", "devcluster-admin", "system:masters"},
	{"kube-controller-manager", "system:kube-controller-manager", ""},
	{"kube-scheduler", "system:kube-scheduler", ""},
	{"node", "devcluster-node", "system:masters"},
}

// writePKI makes two authorities: the cluster's, and the front proxy's, without which the
// apiserver would not look at X-Remote-User headers at all. Real clusters have both.
func (o Options) writePKI(s state) error {
	ca, err := o.newAuthority("ca", s.Name+"-ca")
	if err != nil {
		return err
	}
	front, err := o.newAuthority("front-proxy-ca", s.Name+"-front-proxy-ca")
	if err != nil {
		return err
	}
	for _, c := range append([]client{{"kubelet-client", kubeletClient, ""}}, clients...) {
		if err := o.issue(ca, c, nil, nil); err != nil {
			return err
		}
	}
	if err := o.issue(front, client{"front-proxy-client", "front-proxy-client", ""}, nil, nil); err != nil {
		return err
	}
	loopback := net.IPv4(127, 0, 0, 1)
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	if err := o.issue(ca, client{"kube-apiserver", "kube-apiserver", ""}, names, []net.IP{loopback, net.ParseIP(serviceIP)}); err != nil {
		return err
	}
	if err := o.issue(ca, client{"kubelet", "system:node:" + s.NodeName, ""}, []string{s.NodeName}, []net.IP{loopback}); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making service account key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encoding service account key: %w", err)
	}
	if err := writeFile(o.path(pkiDir, "service-account.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil {
		return err
	}
	return o.writeKey("service-account", key)
}

func (o Options) newAuthority(file, name string) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, fmt.Errorf("making key of %s: %w", name, err)
	}
	template, err := newTemplate(pkix.Name{CommonName: name})
	if err != nil {
		return authority{}, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return authority{}, fmt.Errorf("signing %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, fmt.Errorf("parsing %s: %w", name, err)
	}
	if err := o.writeCert(file, der); err != nil {
		return authority{}, err
	}
	return authority{cert, key}, o.writeKey(file, key)
}

// issue makes a client certificate, or with names and addresses a serving one.
func (o Options) issue(ca authority, c client, names []string, addresses []net.IP) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making key of %s: %w", c.commonName, err)
	}
	subject := pkix.Name{CommonName: c.commonName}
	if c.organization != "" {
		subject.Organization = []string{c.organization}
	}
	template, err := newTemplate(subject)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(addresses) > 0 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		template.DNSNames, template.IPAddresses = names, addresses
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return fmt.Errorf("signing certificate of %s: %w", c.commonName, err)
	}
	if err := o.writeCert(c.file, der); err != nil {
		return err
	}
	return o.writeKey(c.file, key)
}

func newTemplate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		NotBefore:    now.Add(-5 * time.Minute),
		NotAfter:     now.Add(keyLife),
	}, nil
}

func (o Options) writeCert(file string, der []byte) error {
	return writeFile(o.path(pkiDir, file+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (o Options) writeKey(file string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encoding key %s: %w", file, err)
	}
	return writeFile(o.path(pkiDir, file+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
