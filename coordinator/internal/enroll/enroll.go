// Package enroll serves EnrollService: how a device or an agent becomes known.
//
// Nothing here is asked of a client certificate. A device comes with an access
// token that Hydra vouches for, or with one that a person's approval elsewhere
// was worth (RFC 8628) and that is for its key alone; an agent with a join token that works once, and
// both with a request signed by a key that they made and keep. What they get is
// bound to that key: a certificate, and an overlay auth key that enrols one
// machine once. The order in each method is the safety: whoever asks is known
// before anything is stored, and everything is stored and on record before
// anything is issued.
package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/ca"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/directory"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/status"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
)

// authKeyTTL is how long an overlay auth key waits to be used.
const authKeyTTL = 10 * time.Minute

// renewSkew is how far a renewal's own time may be from ours.
const renewSkew = 5 * time.Minute

// Config says what the service issues from.
type Config struct {
	Directory *directory.Directory
	CA        *ca.Authority
	// Introspect tells whose a token is, for the device with this key. Redeem
	// does so for the last time: a token that works once is spent by it.
	Introspect, Redeem func(ctx context.Context, token string, key [32]byte) (userID string, err error)
	// AuthKey makes a single-use overlay auth key for a member.
	AuthKey func(ctx context.Context, memberID string, ttl time.Duration) (string, error)
	// Record puts an issuance on record, durably.
	Record func(ctx context.Context, e *audit.Event) error
	// Discover is what everyone may know.
	Discover *apiv1.DiscoverResponse
	// PolicyKeys and CosignerVKey are what agents verify policy and
	// acknowledgements with.
	PolicyKeys   [][]byte
	CosignerVKey string
	ControlURL   string
	Session      time.Duration
	Now          func() time.Time
	Log          *slog.Logger
}

// Server serves EnrollService.
type Server struct{ cfg Config }

var _ apiv1connect.EnrollServiceHandler = (*Server)(nil)

// New makes the service.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg}
}

// Discover says what a client needs before it can log in.
func (s *Server) Discover(context.Context, *connect.Request[apiv1.DiscoverRequest]) (*connect.Response[apiv1.DiscoverResponse], error) {
	return connect.NewResponse(s.cfg.Discover), nil
}

// EnrollDevice begins a session.
func (s *Server) EnrollDevice(ctx context.Context, req *connect.Request[apiv1.EnrollDeviceRequest]) (*connect.Response[apiv1.EnrollDeviceResponse], error) {
	m := req.Msg
	// 1. Which device? The one that holds this key: its request is signed with it.
	pub, err := pki.ParseCSR(m.Csr)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	sum, err := keySum(pub)
	if err != nil {
		return nil, status.Of(err)
	}
	// 2. Whose? Hydra says whose the token is, or the person who approved this
	// key elsewhere; the directory that the user may still log in.
	userID, err := s.cfg.Introspect(ctx, m.AccessToken, sum)
	if err != nil {
		return nil, status.Of(err)
	}
	device, _, err := s.cfg.Directory.EnrollDevice(ctx, directory.DeviceSpec{UserID: userID, KeySHA256: sum, Name: m.DeviceName, OS: m.Os})
	if err != nil {
		return nil, status.Of(err)
	}
	// 3. A session, under the user's generation as it is now.
	session, _, err := s.cfg.Directory.CreateSession(ctx, userID, device.Id, s.cfg.Session)
	if err != nil {
		return nil, status.Of(err)
	}
	// The session has the user's generation of that commit. If it was raised after
	// the token was looked at, a password was changed or access ended meanwhile,
	// and the token that it was to end must not have begun this session.
	if again, err := s.cfg.Redeem(ctx, m.AccessToken, sum); err != nil || again != userID {
		_, _, revokeErr := s.cfg.Directory.RevokeSession(ctx, session.Id)
		return nil, status.Of(errors.Join(err, revokeErr))
	}
	user := s.cfg.Directory.Snapshot().Users[userID]
	if user == nil {
		return nil, status.Of(&directory.NotFoundError{Kind: "user", Ref: userID})
	}
	// 4. The certificate, and the record of it before anyone has it.
	expires := session.ExpiresAt.AsTime()
	issued, err := s.cfg.CA.IssueUser(m.Csr, identity.UserCert{
		UserID: userID, DeviceID: device.Id, SessionID: session.Id, Generation: session.AuthGeneration,
	}, user.Name, expires)
	if err != nil {
		return nil, status.Of(err)
	}
	serial := issued.Leaf.SerialNumber.Text(16)
	if _, _, err := s.cfg.Directory.SetSessionSerial(ctx, session.Id, serial); err != nil {
		return nil, status.Of(err)
	}
	who := &caller.Caller{User: user, Device: device, Session: session, Serial: serial, Addr: req.Peer().Addr}
	if err := s.cfg.Record(ctx, who.Event("issue.device", "device "+device.Id, s.cfg.Now())); err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("no certificate, since it could not be put on record: %w", err))
	}
	// 5. The way into the overlay.
	authKey, err := s.cfg.AuthKey(ctx, device.Id, authKeyTTL)
	if err != nil {
		return nil, status.Of(fmt.Errorf("making overlay auth key: %w", err))
	}
	return connect.NewResponse(&apiv1.EnrollDeviceResponse{
		UserId: userID, UserName: user.Name, DeviceId: device.Id, SessionId: session.Id, ExpiresAt: session.ExpiresAt,
		CertificateChainPem: issued.ChainPEM, RootPem: s.cfg.CA.RootPEM(), AuthKey: authKey,
		ControlUrl: s.cfg.ControlURL, OverlayDomain: s.cfg.Discover.OverlayDomain,
	}), nil
}

// EnrollAgent turns a join token into an agent.
func (s *Server) EnrollAgent(ctx context.Context, req *connect.Request[apiv1.EnrollAgentRequest]) (*connect.Response[apiv1.EnrollAgentResponse], error) {
	m := req.Msg
	// 1. The key, before the token is spent on a request that cannot be answered.
	pub, err := pki.ParseCSR(m.Csr)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	sum, err := keySum(pub)
	if err != nil {
		return nil, status.Of(err)
	}
	// 2. The token, once.
	agent, _, err := s.cfg.Directory.RedeemJoinToken(ctx, directory.Join{
		Token: m.JoinToken, KubeSystemUID: m.KubeSystemUid, KeySHA256: sum, CheckpointVKey: m.CheckpointVkey, Version: m.Version,
	})
	if err != nil {
		s.cfg.Log.Warn("agent refused", "addr", req.Peer().Addr, "err", err)
		return nil, status.Of(err)
	}
	return s.issueAgent(ctx, "issue.agent", agent, m.Csr, req.Peer().Addr)
}

// RenewAgent issues anew for a key that is enrolled.
func (s *Server) RenewAgent(ctx context.Context, req *connect.Request[apiv1.RenewAgentRequest]) (*connect.Response[apiv1.EnrollAgentResponse], error) {
	m := req.Msg
	pub, err := pki.ParseCSR(m.Csr)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	signedAt := m.SignedAt.AsTime()
	if d := s.cfg.Now().Sub(signedAt); d > renewSkew || d < -renewSkew {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("renewal was signed at %s, which is not now: check the clock", signedAt.Format(time.RFC3339)))
	}
	digest := RenewDigest(m.AgentId, signedAt, m.Csr)
	if !ecdsa.VerifyASN1(pub, digest[:], m.Proof) {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("renewal is not signed by the key it is for"))
	}
	sum, err := keySum(pub)
	if err != nil {
		return nil, status.Of(err)
	}
	agent, _, err := s.cfg.Directory.RenewAgent(ctx, m.AgentId, sum, "")
	if err != nil {
		return nil, status.Of(err)
	}
	return s.issueAgent(ctx, "renew.agent", agent, m.Csr, req.Peer().Addr)
}

func (s *Server) issueAgent(ctx context.Context, kind string, agent *apiv1.Agent, csr []byte, addr string) (*connect.Response[apiv1.EnrollAgentResponse], error) {
	snap := s.cfg.Directory.Snapshot()
	cluster := snap.Clusters[agent.ClusterId]
	if cluster == nil {
		return nil, status.Of(&directory.NotFoundError{Kind: "cluster", Ref: agent.ClusterId})
	}
	issued, err := s.cfg.CA.IssueAgent(csr, identity.AgentCert{ClusterID: cluster.Id, AgentID: agent.Id}, cluster.Name)
	if err != nil {
		return nil, status.Of(err)
	}
	serving, err := s.cfg.CA.IssueServing(csr, []string{cluster.Name + "." + s.cfg.Discover.OverlayDomain})
	if err != nil {
		return nil, status.Of(err)
	}
	who := &caller.Caller{Agent: agent, Cluster: cluster, Serial: issued.Leaf.SerialNumber.Text(16), Addr: addr}
	if err := s.cfg.Record(ctx, who.Event(kind, "agent "+agent.Id, s.cfg.Now())); err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("no certificate, since it could not be put on record: %w", err))
	}
	authKey, err := s.cfg.AuthKey(ctx, agent.Id, authKeyTTL)
	if err != nil {
		return nil, status.Of(fmt.Errorf("making overlay auth key: %w", err))
	}
	return connect.NewResponse(&apiv1.EnrollAgentResponse{
		AgentId: agent.Id, ClusterId: cluster.Id, ClusterName: cluster.Name, ProjectName: snap.Projects[cluster.ProjectId].GetName(),
		AgentChainPem: issued.ChainPEM, ServingChainPem: serving.ChainPEM, RootPem: s.cfg.CA.RootPEM(),
		TrustDomain: s.cfg.Discover.TrustDomain, AuthKey: authKey, ControlUrl: s.cfg.ControlURL,
		OverlayDomain: s.cfg.Discover.OverlayDomain, PolicyKeys: s.cfg.PolicyKeys, CosignerVkey: s.cfg.CosignerVKey,
		LogOrigin: s.cfg.Discover.TrustDomain + "/agents/" + agent.Id,
		ExpiresAt: timestamppb.New(issued.Leaf.NotAfter),
	}), nil
}

// RenewDigest is what a renewal's proof signs; see RenewAgentRequest.
func RenewDigest(agentID string, signedAt time.Time, csr []byte) [sha256.Size]byte {
	h := sha256.New()
	for _, part := range []string{"sallyport-renew-v1", agentID, signedAt.UTC().Format(time.RFC3339)} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	h.Write(csr)
	return [sha256.Size]byte(h.Sum(nil))
}

func keySum(pub *ecdsa.PublicKey) ([32]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return [32]byte{}, fmt.Errorf("encoding public key: %w", err)
	}
	return sha256.Sum256(der), nil
}
