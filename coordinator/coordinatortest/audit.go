package coordinatortest

import (
	"context"
	"net/http"
	"path/filepath"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/auditstore"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1/apiv1connect"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// AuditConfig is what an Audit needs.
type AuditConfig struct {
	Dir     string
	Domain  string
	AgentID string
	VKey    string // the agent's
}

// Audit is the real audit store behind the real Append call, for one agent that is
// taken at its word: there is no TLS, so there is no certificate to know it by.
type Audit struct {
	apiv1connect.UnimplementedAgentServiceHandler
	store *auditstore.Store
	src   auditstore.Source
	vkey  string
}

// OpenAudit opens the store in cfg.Dir, with keys that it keeps there.
func OpenAudit(ctx context.Context, cfg AuditConfig) (*Audit, error) {
	cskey, vkey, err := audit.LoadKey(filepath.Join(cfg.Dir, "cosigner.key"), cfg.Domain+"/coordinator")
	if err != nil {
		return nil, err
	}
	okey, _, err := audit.LoadKey(filepath.Join(cfg.Dir, "own.key"), "own")
	if err != nil {
		return nil, err
	}
	s, err := auditstore.Open(ctx, auditstore.Config{Dir: filepath.Join(cfg.Dir, "audit"), Domain: cfg.Domain, CosignerKey: cskey, OwnKey: okey})
	if err != nil {
		return nil, err
	}
	src := auditstore.Source{
		AgentID: cfg.AgentID, VKey: cfg.VKey,
		Cluster: auditstore.Named{ID: "cls-test", Name: "edge-1"}, Project: auditstore.Named{ID: "prj-test", Name: "aws"},
	}
	return &Audit{store: s, src: src, vkey: vkey}, nil
}

// Append is AgentService.Append.
func (a *Audit) Append(ctx context.Context, req *connect.Request[apiv1.AppendRequest]) (*connect.Response[apiv1.AppendResponse], error) {
	res, err := a.store.Append(ctx, a.src, req.Msg)
	if err != nil {
		return nil, auditstore.Status(err)
	}
	return connect.NewResponse(res), nil
}

// Handler serves AgentService.
func (a *Audit) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(apiv1connect.NewAgentServiceHandler(a))
	return mux
}

// CosignerVKey is what agents are given to check countersignatures with.
func (a *Audit) CosignerVKey() string { return a.vkey }

// Records are all records of a log.
func (a *Audit) Records(origin string) ([][]byte, error) { return a.store.Records(origin, 0, 1<<40) }

// Close closes the store.
func (a *Audit) Close() error { return a.store.Close() }
