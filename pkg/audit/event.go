package audit

// Level is the level of every record: who asked for what and how it ended, never
// what was in it.
const Level = "Metadata"

// Stage says at which moment of a request a record was made; the values are
// those of audit.k8s.io/v1.
type Stage string

const (
	// StageReceived is the intent: on disk before anything went upstream.
	StageReceived Stage = "RequestReceived"
	// StageComplete is the outcome of a request, or the only record of one that
	// was refused, or of an act of the coordinator.
	StageComplete Stage = "ResponseComplete"
)

// Decision is what the policy said.
type Decision string

const (
	Allow Decision = "allow"
	Deny  Decision = "deny"
)

// KindRequest is the kind of a request to a cluster. The coordinator's acts are
// kinds of their own: "login", "issue.device", "issue.agent", "admin.user.suspend".
const KindRequest = "request"

// Event is one record: the fields of audit.k8s.io/v1 Event under their own
// names, and ext for what that has no field for. kind and apiVersion, the same
// in every record, are left out. docs/audit.md is the schema.
type Event struct {
	Level                    string            `json:"level"`
	AuditID                  string            `json:"auditID"`
	Stage                    Stage             `json:"stage"`
	RequestURI               string            `json:"requestURI,omitempty"` // secrets in the query already taken out
	Verb                     string            `json:"verb,omitempty"`
	User                     User              `json:"user"`
	SourceIPs                []string          `json:"sourceIPs,omitempty"`
	UserAgent                string            `json:"userAgent,omitempty"`
	ObjectRef                *ObjectRef        `json:"objectRef,omitempty"` // nil where the request names no resource
	ResponseStatus           *Status           `json:"responseStatus,omitempty"`
	RequestReceivedTimestamp Time              `json:"requestReceivedTimestamp,omitzero"`
	StageTimestamp           Time              `json:"stageTimestamp,omitzero"`
	Annotations              map[string]string `json:"annotations,omitempty"` // further details, for the coordinator's acts
	Ext                      Ext               `json:"ext"`
}

// User is who asked.
type User struct {
	Username string   `json:"username,omitempty"`
	UID      string   `json:"uid,omitempty"` // our user id
	Groups   []string `json:"groups,omitempty"`
}

// ObjectRef is what was asked for.
type ObjectRef struct {
	Resource    string `json:"resource,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name,omitempty"`
	APIGroup    string `json:"apiGroup,omitempty"`
	APIVersion  string `json:"apiVersion,omitempty"`
	Subresource string `json:"subresource,omitempty"`
}

// Status is how it was answered.
type Status struct {
	Code    int32  `json:"code,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// Ext is what audit.k8s.io/v1 has no field for. A record's sequence number is
// its position in the log and therefore not in the record.
type Ext struct {
	Kind       string `json:"kind"`                 // KindRequest, or an act of the coordinator
	Cluster    string `json:"cluster,omitempty"`    // name
	Device     string `json:"device,omitempty"`     // id
	Session    string `json:"session,omitempty"`    // id
	CertSerial string `json:"certSerial,omitempty"` // lower-case hex

	Decision       Decision `json:"decision,omitempty"`
	Reason         string   `json:"reason,omitempty"` // for people
	Rule           string   `json:"rule,omitempty"`
	Grant          string   `json:"grant,omitempty"` // id
	Role           string   `json:"role,omitempty"`
	PolicyRevision uint64   `json:"policyRevision,omitempty"`

	Account string `json:"account,omitempty"` // service account the request went as
	TokenID string `json:"tokenID,omitempty"` // JTI of its token, as in the apiserver's log; never the token

	Command []string `json:"command,omitempty"` // of an exec

	BytesIn     int64   `json:"bytesIn,omitempty"`  // from the user
	BytesOut    int64   `json:"bytesOut,omitempty"` // to the user
	DurationMS  float64 `json:"durationMs,omitempty"`
	CloseReason string  `json:"closeReason,omitempty"` // why a stream ended

	// Count is how many equal refusals this record stands for; 0 means one. The
	// other fields are the first one's, stageTimestamp is the last one's.
	Count uint32 `json:"count,omitempty"`

	// Target is the object of a coordinator's act: "user shivam", "cluster edge-1".
	Target string `json:"target,omitempty"`
}
