package ctl

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/urfave/cli/v2"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	record "github.com/sallyport-mesh/sallyport/pkg/audit"
)

func audit() *cli.Command {
	return noun("audit", "who did what, where and when", auditSearch(), auditShow())
}

func auditSearch() *cli.Command {
	return verb("search", "search the record, newest first", "sallyportctl audit search --cluster edge-1 --verb delete --since 1h", nil,
		[]cli.Flag{
			&cli.StringFlag{Name: "user", Usage: "by `USER`"},
			&cli.StringFlag{Name: "device", Usage: "from `DEVICE`"},
			&cli.StringFlag{Name: "cluster", Usage: "in `CLUSTER`"},
			&cli.StringFlag{Name: "project", Usage: "in the clusters of `PROJECT`"},
			&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "in `NAMESPACE`"},
			&cli.StringFlag{Name: "resource", Usage: "of `RESOURCE`, for example deployments or pods/exec"},
			&cli.StringFlag{Name: "name", Usage: "of the object called `NAME`"},
			&cli.StringFlag{Name: "verb", Usage: "`VERB`, for example delete"},
			&cli.StringFlag{Name: "decision", Usage: "allow or deny"},
			&cli.StringFlag{Name: "since", Usage: "from `WHEN` on: 1h or 2026-01-31"},
			&cli.StringFlag{Name: "until", Usage: "up to `WHEN`"},
			&cli.StringFlag{Name: "log", Value: "access", Usage: "access (requests to clusters), coordinator (its own acts) or all"},
			&cli.UintFlag{Name: "limit", Value: 100, Usage: "at most `N` records"},
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what arrives"},
		},
		func(c *cli.Context, s *session) error {
			now := time.Now()
			since, err := ago(c.String("since"), now)
			if err != nil {
				return fmt.Errorf("--since: %w", err)
			}
			until, err := ago(c.String("until"), now)
			if err != nil {
				return fmt.Errorf("--until: %w", err)
			}
			switch c.String("log") {
			case "access", "coordinator", "all":
			default:
				return fmt.Errorf("--log %q: want access, coordinator or all", c.String("log"))
			}
			switch c.String("decision") {
			case "", "allow", "deny":
			default:
				return fmt.Errorf("--decision %q: want allow or deny", c.String("decision"))
			}
			resource, subresource, _ := strings.Cut(c.String("resource"), "/")
			stream, err := s.admin.SearchAudit(c.Context, connect.NewRequest(&apiv1.SearchAuditRequest{
				User: c.String("user"), Device: c.String("device"), Cluster: c.String("cluster"), Project: c.String("project"),
				Namespace: c.String("namespace"), Resource: resource, Subresource: subresource, Name: c.String("name"),
				Verb: c.String("verb"), Decision: c.String("decision"), Since: since, Until: until,
				Limit: uint32(c.Uint("limit")), Log: c.String("log"), Follow: c.Bool("follow"),
			}))
			if err != nil {
				return err
			}
			return printRecords(c, stream)
		})
}

func auditShow() *cli.Command {
	return verb("show", "show one request by the id that its refusal or its record names",
		"sallyportctl audit show 3f1c9b8e-2d4a-4c7b-9e21-5b7a0c6d8e90", []string{"REQUEST-ID"}, nil, func(c *cli.Context, s *session) error {
			res, err := s.admin.GetAuditRecord(c.Context, connect.NewRequest(&apiv1.GetAuditRecordRequest{RequestId: c.Args().First()}))
			if err != nil {
				return err
			}
			if forPrograms(c) {
				return printJSONRecord(c, res.Msg)
			}
			e, err := record.Decode(res.Msg.Intent)
			if err != nil {
				return fmt.Errorf("reading record %d of %s: %w", res.Msg.Seq, res.Msg.Log, err)
			}
			row, err := recordRow(res.Msg)
			if err != nil {
				return err
			}
			return detail(c, res.Msg, [][2]string{
				{"request", e.AuditID}, {"time", row[0]}, {"user", strings.TrimSpace(e.User.Username + " " + e.User.UID)},
				{"device", e.Ext.Device}, {"session", e.Ext.Session}, {"from", strings.Join(e.SourceIPs, ", ")},
				{"cluster", e.Ext.Cluster}, {"project", res.Msg.Project}, {"verb", row[4]}, {"object", row[5]}, {"uri", e.RequestURI},
				{"decision", row[6]}, {"reason", e.Ext.Reason}, {"result", row[7]},
				{"record", fmt.Sprintf("%d of %s", res.Msg.Seq, res.Msg.Log)},
			})
		})
}

func printRecords(c *cli.Context, stream *connect.ServerStreamForClient[apiv1.AuditRecord]) error {
	if forPrograms(c) {
		for stream.Receive() {
			if err := printJSONRecord(c, stream.Msg()); err != nil {
				return err
			}
		}
		return stream.Err()
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "TIME\tUSER\tDEVICE\tCLUSTER\tVERB\tOBJECT\tDECISION\tRESULT\tREQUEST")
	for stream.Receive() {
		row, err := recordRow(stream.Msg())
		if err != nil {
			return err
		}
		for i := range row {
			row[i] = clean(row[i])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
		if c.Bool("follow") {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return stream.Err()
}

// printJSONRecord prints a record as one line: the stored bytes are JSON already
// and are not encoded again.
func printJSONRecord(c *cli.Context, r *apiv1.AuditRecord) error {
	outcome := "null"
	if len(r.Outcome) > 0 {
		outcome = string(r.Outcome)
	}
	return printRaw(c, fmt.Appendf(nil, `{"log":%s,"seq":%d,"cluster":%s,"project":%s,"intent":%s,"outcome":%s}`+"\n",
		strconv.Quote(r.Log), r.Seq, strconv.Quote(r.Cluster), strconv.Quote(r.Project), r.Intent, outcome))
}

func recordRow(r *apiv1.AuditRecord) ([]string, error) {
	e, err := record.Decode(r.Intent)
	if err != nil {
		return nil, fmt.Errorf("reading record %d of %s: %w", r.Seq, r.Log, err)
	}
	result := "running, or its outcome was never written"
	if e.Stage == record.StageComplete {
		result = outcome(e)
	}
	if len(r.Outcome) > 0 {
		o, err := record.Decode(r.Outcome)
		if err != nil {
			return nil, fmt.Errorf("reading the outcome of record %d of %s: %w", r.Seq, r.Log, err)
		}
		result = outcome(o)
	}
	verb := e.Verb
	if verb == "" {
		verb = e.Ext.Kind
	}
	return []string{
		e.RequestReceivedTimestamp.Local().Format("2006-01-02 15:04:05"), e.User.Username, e.Ext.Device, e.Ext.Cluster,
		verb, object(e), string(e.Ext.Decision), result, e.AuditID,
	}, nil
}

func outcome(e *record.Event) string {
	if e.ResponseStatus == nil {
		return e.Ext.CloseReason
	}
	result := e.ResponseStatus.Reason
	if e.ResponseStatus.Code != 0 {
		result = strconv.Itoa(int(e.ResponseStatus.Code))
	}
	if e.Ext.CloseReason != "" {
		result += " " + e.Ext.CloseReason
	}
	return result
}

func object(e *record.Event) string {
	o := e.ObjectRef
	if o == nil {
		if e.Ext.Target != "" {
			return e.Ext.Target
		}
		return e.RequestURI
	}
	s := o.Resource
	if o.Subresource != "" {
		s += "/" + o.Subresource
	}
	if o.Namespace != "" {
		s = o.Namespace + " " + s
	}
	if o.Name != "" {
		s += " " + o.Name
	}
	return s
}
