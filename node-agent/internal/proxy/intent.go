package proxy

import (
	"strings"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// Step 5, record intent: the record is on disk before anything goes upstream.

func (x *exchange) recordIntent() *refusal {
	e := x.newEvent(audit.StageReceived)
	x.event = e
	if err := x.p.cfg.Log.Intent(x.ctx, e); err != nil {
		if why := x.entry.ended(); why != nil {
			return why
		}
		x.p.log.Error("recording an intent failed", "request", x.id, "error", err)
		return unavailable("the audit log cannot record this request, and nothing goes unrecorded; tell whoever runs this cluster's agent")
	}
	return nil
}

// newEvent describes the exchange as far as it has come.
func (x *exchange) newEvent(stage audit.Stage) *audit.Event {
	e := &audit.Event{
		Level: audit.Level, AuditID: x.id, Stage: stage,
		RequestURI: x.recordedURI(), UserAgent: x.agent,
		RequestReceivedTimestamp: audit.At(x.received), StageTimestamp: audit.At(time.Now()),
		Ext: audit.Ext{Kind: audit.KindRequest, Cluster: x.p.cfg.ClusterName},
	}
	if c := x.conn; c != nil {
		e.SourceIPs = []string{c.remote.Addr().String()}
		e.User.UID = c.user.UserID
		e.Ext.Device, e.Ext.Session, e.Ext.CertSerial = c.user.DeviceID, c.user.SessionID, c.serial
	}
	if x.subject.UserID != "" {
		e.User.Username = x.subject.Name
		for _, g := range x.subject.Groups {
			e.User.Groups = append(e.User.Groups, g.Name)
		}
	}
	if q := x.reading; q != nil {
		e.Verb = q.attrs.Verb
		e.Ext.Command = q.command
		if q.attrs.ResourceRequest {
			name := q.attrs.Name
			if name == "" {
				name = q.attrs.SelectedName
			}
			e.ObjectRef = &audit.ObjectRef{
				Resource: q.attrs.Resource, Namespace: q.attrs.Namespace, Name: name,
				APIGroup: q.attrs.APIGroup, APIVersion: q.attrs.APIVersion, Subresource: q.attrs.Subresource,
			}
		}
	}
	if d := x.decision; d != nil {
		e.Ext.Decision = audit.Deny
		if d.Allowed {
			e.Ext.Decision = audit.Allow
		}
		e.Ext.Reason, e.Ext.Rule, e.Ext.Grant, e.Ext.Role, e.Ext.PolicyRevision = d.Reason, d.Rule, d.Grant, d.Role, d.Revision
	}
	return e
}

// recordedURI leaves out queries that are not Kubernetes' own: what is behind a
// proxy subresource may take its secrets there.
func (x *exchange) recordedURI() string {
	if x.reading != nil && !x.reading.proxied && x.reading.attrs.ResourceRequest {
		return x.uri
	}
	path, _, _ := strings.Cut(x.uri, "?")
	return path
}
