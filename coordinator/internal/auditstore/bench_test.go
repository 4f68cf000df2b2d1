package auditstore

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"
	"time"

	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// BenchmarkIngest takes in requests, two records each, from twenty agents in
// batches of 500 records, and then asks what a security team asks.
func BenchmarkIngest(b *testing.B) {
	p := newPlace(b)
	s := p.open(b)
	const agents, batch = 20, 500
	all := make([]*agent, agents)
	trees := make([]audit.Tree, agents)
	for i := range all {
		all[i] = newAgent(b, fmt.Sprint("agt-", i), fmt.Sprint("edge-", i))
	}
	verbs, resources := []string{"get", "list", "watch", "create", "delete"}, []string{"pods", "deployments.apps", "secrets", "configmaps"}
	records := 0
	for b.Loop() {
		var wg sync.WaitGroup
		for n, a := range all {
			req := &apiv1.AppendRequest{Log: a.origin, FirstSeq: trees[n].Size()}
			for i := range batch / 2 {
				x := records/agents + i
				r := request{
					fmt.Sprintf("7c9e6679-7425-40de-%04d-%012d", n, x), fmt.Sprint("user-", x%500), fmt.Sprint("dev-", x%700),
					verbs[x%5], resources[x%4], "", fmt.Sprint("team-", x%30), fmt.Sprint("web-", x%1000), x / 100, audit.Allow,
				}
				req.Records = append(req.Records, audit.Encode(r.intent()), audit.Encode(r.outcome()))
			}
			for _, rec := range req.Records {
				trees[n].Append(audit.LeafHash(rec))
			}
			req.Checkpoint, _ = a.signer.Sign(&trees[n])
			wg.Go(func() {
				if _, err := s.Append(b.Context(), a.src, req); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		records += agents * batch
	}
	b.StopTimer()
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
	for name, q := range map[string]Query{
		"user":     {User: "user-7", Since: day},
		"verb":     {Resource: "deployments", Verb: "delete", Since: day},
		"cluster":  {Clusters: []string{"edge-3"}},
		"anything": {},
	} {
		start, n := time.Now(), 0
		if err := s.Search(b.Context(), q, func(*apiv1.AuditRecord) error { n++; return nil }); err != nil || n == 0 {
			b.Fatal(name, n, err)
		}
		b.ReportMetric(float64(time.Since(start).Microseconds())/1000, name+"-ms")
	}
	closeStore(b, s)
	var size int64
	err := filepath.WalkDir(p.Dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if filepath.Ext(d.Name()) == ".sst" {
			info, err := d.Info()
			if err != nil {
				return err
			}
			size += info.Size()
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(size)/float64(records), "bytes/record")
}
