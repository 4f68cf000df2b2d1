package directory

import (
	"context"
	"encoding/hex"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/identity"
)

const deviceKeyPrefix = "devicekey/" // + hex SHA-256 of the key → device id

var errDeviceRevoked = &RefusedError{
	"this device was revoked",
	"sallyport login --new-device",
}

// DeviceSpec is what a device says of itself when it enrols.
type DeviceSpec struct {
	UserID string
	// KeySHA256 of the device key's SubjectPublicKeyInfo; the caller has
	// verified that the device holds the key.
	KeySHA256 [32]byte
	Name, OS  string
}

// EnrollDevice finds or adds the device with a key. One key is one device of
// one user: another user's login with it, and a revoked device, are refused.
func (d *Directory) EnrollDevice(ctx context.Context, spec DeviceSpec) (*apiv1.Device, uint64, error) {
	name, err := cleanText("device name", spec.Name, 64)
	if err != nil {
		return nil, 0, err
	}
	if name == "" {
		name = "device"
	}
	system, err := cleanText("os", spec.OS, 64)
	if err != nil {
		return nil, 0, err
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.Device, error) {
		u, err := users.get(tx, spec.UserID)
		if err != nil {
			return nil, err
		}
		if u.Suspended {
			return nil, ErrSuspended
		}
		key := deviceKeyPrefix + hex.EncodeToString(spec.KeySHA256[:])
		it, err := tx.Get(key)
		if err != nil {
			return nil, err
		}
		var dev *apiv1.Device
		if it == nil {
			dev = &apiv1.Device{Id: identity.NewID(identity.Device), UserId: u.Id, CreatedAt: at(d.now()), KeySha256: spec.KeySHA256[:]}
			tx.Put(key, []byte(dev.Id))
		} else if dev, err = devices.get(tx, string(it.Value)); err != nil {
			return nil, err
		}
		if dev.UserId != u.Id {
			return nil, &RefusedError{
				"this device is enrolled for another user",
				"one SALLYPORT_HOME is for one person: set SALLYPORT_HOME to another directory and log in there",
			}
		}
		if dev.Revoked {
			return nil, errDeviceRevoked
		}
		dev.Name, dev.Os = name, system
		return dev, devices.put(tx, dev.Id, dev)
	})
}

// RevokeDevice refuses a device for good and revokes its sessions.
func (d *Directory) RevokeDevice(ctx context.Context, device string) (*apiv1.Device, uint64, error) {
	named, err := d.Snapshot().Device(device) // a name is for people, the id decides
	if err != nil {
		return nil, 0, err
	}
	return change(ctx, d, func(tx store.Txn) (*apiv1.Device, error) {
		dev, err := devices.get(tx, named.Id)
		if err != nil {
			return nil, err
		}
		dev.Revoked = true
		if err := devices.put(tx, dev.Id, dev); err != nil {
			return nil, err
		}
		return dev, revokeSessions(tx, func(s *apiv1.Session) bool { return s.DeviceId == dev.Id })
	})
}
