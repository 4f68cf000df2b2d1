package caller

import (
	"time"

	"github.com/google/uuid"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Event begins the record of an act of the coordinator that this caller asked
// for: kind says what ("admin.user.suspend"), target to what.
func (c *Caller) Event(kind, target string, now time.Time) *audit.Event {
	at := audit.At(now)
	e := &audit.Event{
		AuditID: uuid.NewString(), Stage: audit.StageComplete, SourceIPs: []string{c.Addr},
		RequestReceivedTimestamp: at, StageTimestamp: at,
		Ext: audit.Ext{Kind: kind, Target: target, CertSerial: c.Serial, Decision: audit.Allow},
	}
	switch {
	case c.User != nil:
		e.User = audit.User{Username: c.User.Name, UID: c.User.Id}
	case c.Agent != nil:
		e.User = audit.User{Username: "agent", UID: c.Agent.Id}
		e.Ext.Cluster = c.Cluster.Name
	case c.Local:
		e.User = audit.User{Username: "local socket"}
	}
	if c.Device != nil {
		e.Ext.Device = c.Device.Id
	}
	if c.Session != nil {
		e.Ext.Session = c.Session.Id
	}
	return e
}
