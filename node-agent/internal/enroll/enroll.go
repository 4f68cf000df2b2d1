package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/apiclient"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// callTimeout bounds an enrolment and a renewal.
const callTimeout = 30 * time.Second

// Config says how to enrol.
type Config struct {
	// Dir gets the identity. It must exist and hold none, but perhaps the keys of
	// an enrolment whose answer was lost.
	Dir string
	// Token is the join token.
	Token pki.JoinToken
	// KubeSystemUID is the UID of the cluster's namespace kube-system.
	KubeSystemUID string
	// Version is this agent's.
	Version string
}

// Enroll turns a join token into an identity. The keys are on disk before the
// token is spent: an agent that dies before it has the answer, or never gets it,
// comes with the same keys again, and the coordinator knows them. After an error
// that leaves no doubt nothing stays behind.
func Enroll(ctx context.Context, cfg Config) (*Identity, error) {
	id, err := enroll(ctx, cfg)
	if err != nil && !inDoubt(err) {
		forgetKeys(cfg.Dir)
	}
	return id, err
}

// inDoubt reports whether the coordinator may have enrolled us all the same.
func inDoubt(err error) bool {
	var (
		call *connect.Error
		dial *net.OpError
		cert *tls.CertificateVerificationError
	)
	switch {
	case !errors.As(err, &call): // it has answered, and we do not take it
		return false
	case connect.IsWireError(err):
		return call.Code() == connect.CodeInternal || call.Code() == connect.CodeUnavailable
	case apiclient.NotACoordinator(err), errors.As(err, &cert), errors.Is(err, pki.ErrPin), errors.As(err, &dial) && dial.Op == "dial":
		return false
	}
	return true
}

func enroll(ctx context.Context, cfg Config) (*Identity, error) {
	key, err := pki.LoadOrCreateKey(filepath.Join(cfg.Dir, keyFile))
	if err != nil {
		return nil, err
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return nil, err
	}
	// The key takes the name of its log, which is not known yet, when it signs.
	skey, vkey, err := audit.LoadKey(filepath.Join(cfg.Dir, checkpointFile), "sallyport-agent")
	if err != nil {
		return nil, err
	}
	client, err := newClient(cfg.Token.Link, nil, cfg.Version, nil)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := client.Enroll().EnrollAgent(ctx, connect.NewRequest(&apiv1.EnrollAgentRequest{
		JoinToken: cfg.Token.Secret, Csr: csr, KubeSystemUid: cfg.KubeSystemUID, Version: cfg.Version, CheckpointVkey: vkey,
	}))
	if err != nil {
		return nil, explain(cfg.Token.URL, err)
	}
	e, err := take(cfg.Token.Link, res.Msg, time.Now())
	if err != nil {
		return nil, err
	}
	e.KubeSystemUID = cfg.KubeSystemUID
	id := &Identity{dir: cfg.Dir, version: cfg.Version, key: key, Checkpoint: skey}
	if err := id.use(e); err != nil {
		return nil, err
	}
	return id, id.saveEnrolment(e)
}

// explain says what is wrong with an enrolment, and what to do about it. The
// coordinator's own hints stand; those about login URLs would mislead here.
func explain(url string, err error) error {
	said := apiclient.Explain(url, err)
	_, unknownRoot := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case errors.Is(err, pki.ErrPin):
		return process.Hint(fmt.Errorf("%s is not the coordinator that the join token is of: it presents another root", url),
			"make another join token: sallyportctl cluster token CLUSTER; if that one is refused too, somebody is in between")
	case unknownRoot:
		return process.Hint(errors.New(said.Error()), "make another join token, which names the root: sallyportctl cluster token CLUSTER")
	case apiclient.NotACoordinator(err):
		return process.Hint(fmt.Errorf("%s is not a Sallyport coordinator", url), "make another join token: sallyportctl cluster token CLUSTER")
	case len(process.Hints(said)) > 0:
		return said
	case connect.IsWireError(err) && connect.CodeOf(err) == connect.CodePermissionDenied:
		return process.Hint(said, "make another join token: sallyportctl cluster token CLUSTER")
	}
	return process.Hint(said, "check that the coordinator runs and that "+url+" is reachable from here")
}

// Renew gets new certificates, and a new overlay auth key, for the same key.
func (id *Identity) Renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	csr, err := pki.NewCSR(id.key)
	if err != nil {
		return err
	}
	was := id.Enrolment()
	// Whole seconds: that is what the proof signs.
	at := time.Now().UTC().Truncate(time.Second)
	digest := renewDigest(was.AgentID, at, csr)
	proof, err := ecdsa.SignASN1(rand.Reader, id.key, digest[:])
	if err != nil {
		return fmt.Errorf("signing renewal: %w", err)
	}
	// Without our certificate: it may have run out.
	link := pki.Link{URL: was.URL, Pin: was.Pin}
	client, err := newClient(link, was.privateRoot(), id.version, nil)
	if err != nil {
		return err
	}
	defer client.Close()
	res, err := client.Enroll().RenewAgent(ctx, connect.NewRequest(&apiv1.RenewAgentRequest{
		AgentId: was.AgentID, Csr: csr, SignedAt: timestamppb.New(at), Proof: proof,
	}))
	if err != nil {
		return fmt.Errorf("renewing certificates: %w", apiclient.Explain(was.URL, err))
	}
	e, err := take(link, res.Msg, time.Now())
	if err != nil {
		return fmt.Errorf("renewing certificates: %w", err)
	}
	if e.AgentID != was.AgentID || e.ClusterID != was.ClusterID {
		return errors.New("renewing certificates: the answer is for another agent")
	}
	e.Epoch, e.KubeSystemUID = was.Epoch, was.KubeSystemUID
	if err := id.use(e); err != nil {
		return fmt.Errorf("renewing certificates: %w", err)
	}
	id.Client().Close() // the next connection shows the new certificate
	return id.saveEnrolment(e)
}

// renewDigest is what the proof of a RenewAgentRequest signs.
func renewDigest(agentID string, at time.Time, csr []byte) [sha256.Size]byte {
	h := sha256.New()
	for _, part := range []string{"sallyport-renew-v1", agentID, at.UTC().Format(time.RFC3339)} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	h.Write(csr)
	return [sha256.Size]byte(h.Sum(nil))
}

// KeepFresh renews at two thirds of the certificates' life, and tries until it
// works, until ctx ends.
func (id *Identity) KeepFresh(ctx context.Context, log *slog.Logger) {
	const soon, late = time.Second, 10 * time.Minute
	for wait := soon; ; {
		e := id.Enrolment()
		due := time.Until(e.IssuedAt.Add(e.ExpiresAt.Sub(e.IssuedAt) * 2 / 3))
		select {
		case <-ctx.Done():
			return
		// In steps, since a machine that slept does not count its timers on.
		case <-time.After(min(max(due, 0), time.Minute)):
		}
		if due > time.Minute {
			continue
		}
		err := id.Renew(ctx)
		if err == nil {
			log.Info("certificates renewed", "until", id.Enrolment().ExpiresAt)
			wait = soon
			continue
		}
		if ctx.Err() != nil {
			return
		}
		log.Warn("renewing certificates failed; trying again", "error", err, "in", wait, "until", e.ExpiresAt)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, late)
	}
}
