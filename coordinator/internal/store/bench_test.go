package store

import (
	"fmt"
	"testing"
)

// BenchmarkUpdate is durable updates by concurrent writers.
func BenchmarkUpdate(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s, err := NewBadger(b.Context(), Config{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			value := make([]byte, 300)
			b.SetParallelism(writers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_, err := s.Update(b.Context(), func(tx Txn) error { tx.Put("session/x", value); return nil })
					if err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
