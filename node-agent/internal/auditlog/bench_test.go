package auditlog

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-mesh/sallyport/pkg/audit"
)

// plainFile is what the log is measured against: a file that is synced once for
// everyone who waits, and nothing else.
type plainFile struct {
	f     *os.File
	queue chan *entry
}

func (p *plainFile) run() {
	for e := range p.queue {
		batch := []*entry{e}
		for more := true; more && len(batch) < maxBatchCount; {
			select {
			case e, ok := <-p.queue:
				if more = ok; ok {
					batch = append(batch, e)
				}
			default:
				more = false
			}
		}
		var buf []byte
		for _, e := range batch {
			buf = append(buf, e.record...)
		}
		_, err := p.f.Write(buf)
		if err == nil {
			err = p.f.Sync()
		}
		for _, e := range batch {
			e.done <- err
		}
	}
}

func (p *plainFile) write(rec []byte) error {
	e := &entry{record: rec, done: make(chan error, 1)}
	p.queue <- e
	return <-e.done
}

// BenchmarkDurable compares durable records a second, in the log (encoded, hashed,
// committed) and in a plain file (encoded, written, synced).
func BenchmarkDurable(b *testing.B) {
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("log/%d", writers), func(b *testing.B) {
			l := newBench(b).open(b)
			measure(b, writers, func(e *audit.Event) error { return l.Intent(b.Context(), e) })
			closeLog(b, l)
		})
		b.Run(fmt.Sprintf("file/%d", writers), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "file"))
			if err != nil {
				b.Fatal(err)
			}
			p := &plainFile{f, make(chan *entry, maxBatchCount)}
			go p.run()
			measure(b, writers, func(e *audit.Event) error { return p.write(audit.Encode(e)) })
			close(p.queue)
			f.Close()
		})
	}
}

func measure(b *testing.B, writers int, write func(*audit.Event) error) {
	took := make([][]time.Duration, writers)
	work := make(chan struct{}, writers)
	var wg sync.WaitGroup
	b.ResetTimer()
	for w := range writers {
		wg.Go(func() {
			e := intent("7c9e6679-7425-40de-944b-e07fc1f90ae7")
			for range work {
				start := time.Now()
				if err := write(e); err != nil {
					b.Error(err)
					return
				}
				took[w] = append(took[w], time.Since(start))
			}
		})
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}
