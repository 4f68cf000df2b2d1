package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/policy"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
)

// Config says whose bundles are kept, and where.
type Config struct {
	// Dir holds the bundle and the mark of time. It is made if missing, 0700.
	Dir string
	// ClusterID and TrustDomain are what enrolment said; a bundle for another is
	// refused.
	ClusterID   string
	TrustDomain string
	// Verifier knows the coordinator's policy keys.
	Verifier *policy.Verifier
	// Clock is SystemClock unless set.
	Clock Clock
	// Log is slog.Default() unless set.
	Log *slog.Logger
}

// Keeper holds the newest bundle. Its methods may be called concurrently;
// Current and Fresh take no lock.
type Keeper struct {
	cfg   Config
	state atomic.Pointer[state]

	mu     sync.Mutex    // one change at a time
	marked time.Duration // boot time at which the mark was last written
}

// state is everything that a request asks for. It is replaced, never changed.
type state struct {
	revision uint64 // of the bundle on disk, 0 until the first
	sum      [sha256.Size]byte
	policy   *policy.Policy
	cas      *x509.CertPool
	// namespaces are the cluster's, with their labels; nil while not known.
	namespaces policy.Namespaces

	anchor anchor
	// proven is the last moment of the coordinator's time at which the bundle
	// held is known to have been the newest; beat is the last heartbeat's time.
	proven, beat time.Time
	// gap is true from a reboot until the next heartbeat: how long the agent was
	// away is not known.
	gap bool
	// refused says what was wrong with the last bundle that came, unusable with
	// the one held.
	refused, unusable string
}

// Open reads what is on disk. A bundle there that does not verify, or is for
// another cluster, is an error: somebody put it there.
func Open(_ context.Context, cfg Config) (*Keeper, error) {
	if cfg.Clock.Boot == nil {
		var err error
		if cfg.Clock, err = SystemClock(); err != nil {
			return nil, err
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Verifier == nil || cfg.ClusterID == "" {
		return nil, errors.New("opening bundle: no verifier or no cluster")
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening bundle: %w", err)
	}
	k := &Keeper{cfg: cfg}
	s := &state{}
	if err := k.readMark(s); err != nil {
		return nil, fmt.Errorf("opening bundle: %w", err)
	}
	signed, err := readSigned(filepath.Join(cfg.Dir, bundleFile))
	if err != nil {
		return nil, fmt.Errorf("opening bundle: %w", err)
	}
	k.state.Store(s)
	if signed == nil {
		return k, nil
	}
	b, err := k.verify(signed)
	if err != nil {
		return nil, fmt.Errorf("opening bundle: %s: %w", filepath.Join(cfg.Dir, bundleFile), err)
	}
	if err := k.take(s, signed, b); err != nil {
		cfg.Log.Error("bundle on disk cannot be used", "revision", b.GetRevision(), "err", err)
	}
	return k, nil
}

// verify checks everything about a bundle but whether it can be used.
func (k *Keeper) verify(signed *apiv1.Signed) (*apiv1.Bundle, error) {
	if len(signed.GetPayload()) > policy.MaxBundle {
		return nil, fmt.Errorf("bundle of %d bytes is too large", len(signed.GetPayload()))
	}
	if err := k.cfg.Verifier.Verify(policy.BundleContext, signed); err != nil {
		return nil, fmt.Errorf("verifying bundle: %w", err)
	}
	b, err := policy.ParseBundle(signed.GetPayload())
	if err != nil {
		return nil, err
	}
	if b.GetClusterId() != k.cfg.ClusterID {
		return nil, fmt.Errorf("bundle is for cluster %s, this is %s", b.GetClusterId(), k.cfg.ClusterID)
	}
	return b, nil
}

// take puts a verified bundle into s. If it cannot be used, a policy that
// refuses everything takes its place, and the error says why.
func (k *Keeper) take(s *state, signed *apiv1.Signed, b *apiv1.Bundle) error {
	s.revision, s.sum = b.GetRevision(), sha256.Sum256(signed.GetPayload())
	s.refused, s.unusable = "", ""
	p, cas, err := k.compile(b, s.namespaces)
	if err != nil {
		s.close(b, err)
		return err
	}
	s.policy, s.cas = p, cas
	return nil
}

// close refuses everything. The authorities stay, so that whoever comes can be
// told why.
func (s *state) close(b *apiv1.Bundle, why error) {
	s.policy, s.unusable = policy.Closed(b, why.Error()), why.Error()
}

func (k *Keeper) compile(b *apiv1.Bundle, ns policy.Namespaces) (*policy.Policy, *x509.CertPool, error) {
	if k.cfg.TrustDomain != "" && b.GetTrustDomain() != k.cfg.TrustDomain {
		return nil, nil, fmt.Errorf("bundle is of trust domain %q, this agent of %q", b.GetTrustDomain(), k.cfg.TrustDomain)
	}
	p, err := policy.Compile(b, policy.WithClock(k.Now), policy.WithNamespaces(ns))
	if err != nil {
		return nil, nil, err
	}
	cas := x509.NewCertPool()
	for _, der := range b.GetUserCa() {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("bundle holds no certificate where it should: %w", err)
		}
		cas.AddCert(ca)
	}
	if len(b.GetUserCa()) == 0 {
		return nil, nil, errors.New("bundle names no authority for users")
	}
	return p, cas, nil
}

// Accept takes in a bundle. It returns the policy to put into effect, or nil
// where nothing changes: for the bundle held already, and, with an error, for
// one that is refused. With both, the bundle is genuine and newer but cannot be
// used, and the policy refuses everything. A policy that is returned is Current,
// and one that was returned without an error is on disk.
func (k *Keeper) Accept(signed *apiv1.Signed) (*policy.Policy, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := *k.state.Load()
	p, err := k.accept(&s, signed)
	s.refused = ""
	if err != nil {
		s.refused = err.Error()
	}
	k.state.Store(&s)
	return p, err
}

func (k *Keeper) accept(s *state, signed *apiv1.Signed) (*policy.Policy, error) {
	b, err := k.verify(signed)
	if err != nil {
		return nil, err
	}
	switch {
	case b.GetRevision() < s.revision:
		return nil, fmt.Errorf("bundle of revision %d is older than the one held, %d", b.GetRevision(), s.revision)
	case b.GetRevision() == s.revision && sha256.Sum256(signed.GetPayload()) != s.sum:
		return nil, fmt.Errorf("two bundles of revision %d differ: the coordinator contradicts itself", s.revision)
	case b.GetRevision() == s.revision:
		return nil, nil
	}
	// A crash from here on leaves the old file or the new one. Where it cannot be
	// written, the old policy is known to be over and the new one would be
	// forgotten: nothing is allowed until the bundle comes again and can be kept.
	if err := writeSigned(filepath.Join(k.cfg.Dir, bundleFile), signed); err != nil {
		err = fmt.Errorf("keeping bundle: %w", err)
		s.close(b, err)
		return s.policy, err
	}
	err = k.take(s, signed, b)
	return s.policy, err
}

// SeeNamespaces takes in which namespaces there are and how they are labelled,
// nil for not known. It returns the policy to put into effect, which is Current,
// or nil where nothing changes.
func (k *Keeper) SeeNamespaces(ns policy.Namespaces) *policy.Policy {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := *k.state.Load()
	s.namespaces = ns
	defer func() { k.state.Store(&s) }()
	if s.policy == nil || s.unusable != "" || s.policy.SameNamespaces(ns) {
		return nil
	}
	b := s.policy.Bundle()
	p, cas, err := k.compile(b, ns)
	if err != nil { // it was compiled before, so this cannot be; closed all the same
		s.close(b, err)
		return s.policy
	}
	s.policy, s.cas = p, cas
	return p
}

// Beat takes in a heartbeat. An error says why it proves nothing.
func (k *Keeper) Beat(signed *apiv1.Signed) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := *k.state.Load()
	h, err := k.readBeat(&s, signed)
	if err != nil {
		return err
	}
	at, boot := h.GetTime().AsTime(), k.cfg.Clock.Boot()
	s.beat, s.anchor = at, s.anchor.heard(at, boot)
	switch {
	case h.GetRevision() > s.revision:
		err = fmt.Errorf("heartbeat names revision %d, which has not come yet", h.GetRevision())
	case h.GetRevision() < s.revision:
		err = fmt.Errorf("heartbeat names revision %d, older than the one held, %d", h.GetRevision(), s.revision)
	case !bytes.Equal(h.GetBundleSha256(), s.sum[:]):
		err = fmt.Errorf("heartbeat names another bundle of revision %d than the one held", h.GetRevision())
	default:
		s.proven, s.gap = at, false
	}
	k.state.Store(&s)
	return err
}

func (k *Keeper) readBeat(s *state, signed *apiv1.Signed) (*apiv1.Heartbeat, error) {
	if len(signed.GetPayload()) > policy.MaxHeartbeat {
		return nil, errors.New("heartbeat is too large")
	}
	if err := k.cfg.Verifier.Verify(policy.HeartbeatContext, signed); err != nil {
		return nil, fmt.Errorf("verifying heartbeat: %w", err)
	}
	h, err := policy.ParseHeartbeat(signed.GetPayload())
	if err != nil {
		return nil, err
	}
	if h.GetClusterId() != k.cfg.ClusterID {
		return nil, fmt.Errorf("heartbeat is for cluster %s, this is %s", h.GetClusterId(), k.cfg.ClusterID)
	}
	if at := h.GetTime().AsTime(); at.Before(s.beat) {
		return nil, fmt.Errorf("heartbeat of %s came after that of %s", at.Format(time.RFC3339), s.beat.Format(time.RFC3339))
	}
	return h, nil
}

// Current is the policy to decide by, nil until the first bundle: refuse
// everything.
func (k *Keeper) Current() *policy.Policy { return k.state.Load().policy }

// UserCAs are the authorities that issue users' certificates, none until the
// first bundle.
func (k *Keeper) UserCAs() *x509.CertPool {
	if cas := k.state.Load().cas; cas != nil {
		return cas
	}
	return x509.NewCertPool()
}

// Held is the revision of the bundle held, 0 for none.
func (k *Keeper) Held() uint64 { return k.state.Load().revision }

// Problem says why the last bundle that came was refused, or why the one held
// cannot be used, or is empty.
func (k *Keeper) Problem() string {
	s := k.state.Load()
	if s.refused != "" {
		return s.refused
	}
	return s.unusable
}
