package server

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/adminapi"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/agentapi"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/auditstore"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/enroll"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/login"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/publish"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/sessionapi"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/status"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// Limits on what one message may weigh, bytes.
const (
	maxMessage = 256 << 10
	maxAppend  = 2 << 20 // a batch of audit records is 1 MiB, plus its frame
)

type handlers struct {
	public, local http.Handler
	clientCAs     *x509.CertPool
}

// tls asks for a client certificate and verifies one that is offered; each
// service says whom it takes.
func (h handlers) tls(certs *certificates) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2", "http/1.1"},
		GetCertificate:         certs.get,
		ClientAuth:             tls.VerifyClientCertIfGiven,
		ClientCAs:              h.clientCAs,
		SessionTicketsDisabled: true,
	}
}

func (c *coordinator) handlers() (handlers, error) {
	who := caller.Config{
		TrustDomain: c.cfg.TrustDomain, UserCA: c.ca.UserCAs(), AgentCA: c.ca.AgentCAs(), Snapshot: c.directory.Snapshot,
	}
	pool, err := who.Pool()
	if err != nil {
		return handlers{}, err
	}
	limit := connect.WithReadMaxBytes(maxMessage)
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewEnrollServiceHandler(enroll.New(c.enrollConfig()), limit))
	sessionPath, session := apiv1connect.NewSessionServiceHandler(sessionapi.New(sessionapi.Config{
		TrustDomain: c.cfg.TrustDomain, Directory: c.directory, Clusters: c.publish.ClustersOf, Record: c.audit.Own,
	}), limit)
	mux.Handle(sessionPath, known(session))
	agentPath, agent := apiv1connect.NewAgentServiceHandler(agentapi.New(agentapi.Config{
		Watch: c.publish.Watch, Confirm: c.publish.Confirm, Append: c.append,
	}), connect.WithReadMaxBytes(maxAppend))
	mux.Handle(agentPath, known(agent))
	adminPath, admin := apiv1connect.NewAdminServiceHandler(adminapi.New(c.adminConfig()), limit)
	mux.Handle(adminPath, known(admin))

	overlay := c.tailnet.Handler()
	for _, path := range []string{"/key", "/ts2021", "/derp", "/derp/", "/generate_204", "/bootstrap-dns"} {
		mux.Handle(path, overlay)
	}
	pages := c.login.Handler()
	for _, path := range login.Paths {
		mux.Handle(path, pages)
	}
	hydra, err := c.login.PublicProxy()
	if err != nil {
		return handlers{}, err
	}
	for _, path := range []string{"/oauth2/", "/userinfo", "/.well-known/"} {
		mux.Handle(path, hydra)
	}
	local := http.NewServeMux()
	local.Handle(adminPath, admin)
	return handlers{public: who.Identify(mux), local: local, clientCAs: pool}, nil
}

// known lets in callers whose certificate was verified, believed or not, before
// a byte of their message is read: a stranger can make nobody hold one. What a
// certificate is good for is the service's to say.
func known(h http.Handler) http.Handler {
	refusal := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from := caller.From(r.Context()); from.Serial == "" {
			if err := refusal.Write(w, r, status.Unauthenticated(from, "")); err != nil {
				http.Error(w, "a client certificate is needed", http.StatusUnauthorized)
			}
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (c *coordinator) enrollConfig() enroll.Config {
	return enroll.Config{
		Directory: c.directory, CA: c.ca, Introspect: c.login.Introspect, Redeem: c.login.Redeem, AuthKey: c.tailnet.NewAuthKey, Record: c.audit.Own,
		Discover: &apiv1.DiscoverResponse{
			Name: c.cfg.TrustDomain, Version: c.version, TrustDomain: c.cfg.TrustDomain, Issuer: c.cfg.PublicURL,
			ClientId: login.ClientID, Scopes: login.Scopes, Audience: c.login.Audience(),
			OverlayDomain: c.cfg.Overlay.Domain, RootPem: c.ca.RootPEM(),
			DeviceAuthorizationUrl: c.cfg.PublicURL + login.DeviceAuthorizationPath, DeviceTokenUrl: c.cfg.PublicURL + login.DeviceTokenPath,
		},
		PolicyKeys: [][]byte{c.signer.Public()}, CosignerVKey: c.cosignerVKey, ControlURL: c.cfg.PublicURL,
		Session: c.cfg.Session.Duration(), Log: c.log,
	}
}

func (c *coordinator) adminConfig() adminapi.Config {
	issuers := make(map[string]string)
	for _, p := range c.cfg.Login.Providers {
		issuers[p.Name] = p.Issuer
	}
	return adminapi.Config{
		Directory: c.directory, Effects: c.effects, Unclean: c.publish.Unclean, Agent: c.agentStatus, Addresses: c.addresses,
		Bundle: func(snap *directory.Snapshot, clusterID string) *apiv1.Bundle {
			return publish.BundleFor(snap, clusterID, c.issuer())
		},
		Forget: c.tailnet.Forget, BundleRevision: c.publish.BundleRevision, Search: c.search, Record: c.audit.Own,
		Find: c.find, CA: c.caInfo,
		JoinToken: func(secret string) string {
			return pki.JoinToken{Link: c.link(), Secret: secret}.String()
		},
		WelcomeURL: c.login.WelcomeURL, Issuers: issuers,
		Version: c.version, Log: c.log,
	}
}

func (c *coordinator) issuer() publish.Issuer {
	return publish.Issuer{TrustDomain: c.cfg.TrustDomain, UserCAs: c.ca.UserCAs()}
}

func (c *coordinator) effects(ctx context.Context, revision uint64, send func(*apiv1.Effect) error) error {
	return c.publish.Effects(ctx, revision, send)
}

// append takes in an agent's batch under the verifier key that it enrolled with.
func (c *coordinator) append(ctx context.Context, agent *apiv1.Agent, cluster *apiv1.Cluster, req *apiv1.AppendRequest) (*apiv1.AppendResponse, error) {
	res, err := c.audit.Append(ctx, auditstore.Source{
		AgentID: agent.Id, VKey: agent.CheckpointVkey,
		Cluster: auditstore.Named{ID: cluster.Id, Name: cluster.Name},
		Project: auditstore.Named{ID: cluster.ProjectId, Name: c.directory.Snapshot().Projects[cluster.ProjectId].GetName()},
	}, req)
	return res, auditstore.Status(err)
}

func (c *coordinator) agentStatus(agentID string) *apiv1.AgentStatus {
	st := c.publish.AgentStatus(agentID)
	st.AuditSize = c.audit.Size(agentID)
	return st
}

func (c *coordinator) addresses(memberID string) (online bool, addrs []string) {
	st := c.tailnet.Status(memberID)
	for _, a := range st.Addrs {
		addrs = append(addrs, a.String())
	}
	return st.Online, addrs
}

func (c *coordinator) search(ctx context.Context, req *apiv1.SearchAuditRequest, clusters []string, send func(*apiv1.AuditRecord) error) error {
	return auditstore.Status(c.audit.Search(ctx, auditstore.QueryOf(req, clusters), send))
}

func (c *coordinator) find(ctx context.Context, auditID string) (*apiv1.AuditRecord, string, error) {
	found, err := c.audit.Find(ctx, auditID)
	if err != nil || found == nil {
		return nil, "", auditstore.Status(err)
	}
	return found.Record, found.ProjectID, nil
}

// caInfo is public: what people compare and hand on.
func (c *coordinator) caInfo() *apiv1.CAInfo {
	info := &apiv1.CAInfo{TrustDomain: c.cfg.TrustDomain, LoginUrl: c.link().String(), Pin: c.link().Pin, RootPem: c.ca.RootPEM()}
	for _, cert := range c.ca.Certificates() {
		info.Certificates = append(info.Certificates, &apiv1.CACertificate{
			Role: cert.Role, Subject: cert.Subject.CommonName, Serial: fmt.Sprintf("%x", cert.SerialNumber),
			NotBefore: timestamppb.New(cert.NotBefore), NotAfter: timestamppb.New(cert.NotAfter),
			Fingerprint: fmt.Sprintf("%x", sha256.Sum256(cert.Raw)),
		})
	}
	return info
}
