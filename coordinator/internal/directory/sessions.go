package directory

import (
	"context"
	"time"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

// CreateSession starts a session of a user on a device, under the user's auth
// generation at this very commit.
func (d *Directory) CreateSession(ctx context.Context, userID, deviceID string, lifetime time.Duration) (*apiv1.Session, uint64, error) {
	if lifetime <= 0 || lifetime > d.maxSession {
		return nil, 0, &InvalidError{Field: "session lifetime", Reason: "must be positive and " + d.maxSession.String() + " at most"}
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.Session, error) {
		u, err := users.get(tx, userID)
		if err != nil {
			return nil, err
		}
		dev, err := devices.get(tx, deviceID)
		if err != nil {
			return nil, err
		}
		switch {
		case u.Suspended:
			return nil, ErrSuspended
		case dev.UserId != u.Id:
			return nil, &NotFoundError{"device", deviceID}
		case dev.Revoked:
			return nil, errDeviceRevoked
		}
		now := d.now()
		s := &apiv1.Session{
			Id: identity.NewID(identity.Session), UserId: u.Id, DeviceId: dev.Id, AuthGeneration: u.AuthGeneration,
			CreatedAt: at(now), ExpiresAt: at(now.Add(lifetime)),
		}
		dev.LastLoginAt = s.CreatedAt
		if err := devices.put(tx, dev.Id, dev); err != nil {
			return nil, err
		}
		return s, sessions.put(tx, s.Id, s)
	})
}

// SetSessionSerial notes the serial number of the certificate that was issued
// for a session. A session that was revoked meanwhile is refused, so that the
// certificate is not handed out.
func (d *Directory) SetSessionSerial(ctx context.Context, session, serial string) (*apiv1.Session, uint64, error) {
	serial, err := cleanText("serial", serial, 64)
	if err != nil {
		return nil, 0, err
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.Session, error) {
		s, err := sessions.get(tx, session)
		if err != nil {
			return nil, err
		}
		if s.Revoked {
			return nil, &RefusedError{"this session was ended", "log in again: sallyport login"}
		}
		s.CertificateSerial = serial
		return s, sessions.put(tx, s.Id, s)
	})
}

// RevokeSession ends one session.
func (d *Directory) RevokeSession(ctx context.Context, session string) (*apiv1.Session, uint64, error) {
	return change(ctx, d, func(tx store.Txn) (*apiv1.Session, error) {
		s, err := sessions.get(tx, session)
		if err != nil {
			return nil, err
		}
		s.Revoked = true
		return s, sessions.put(tx, s.Id, s)
	})
}

func revokeSessions(tx store.Txn, which func(*apiv1.Session) bool) error {
	return sessions.all(tx, func(s *apiv1.Session) error {
		if s.Revoked || !which(s) {
			return nil
		}
		s.Revoked = true
		return sessions.put(tx, s.Id, s)
	})
}
