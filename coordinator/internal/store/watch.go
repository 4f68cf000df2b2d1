package store

import (
	"context"
	"sync"
)

// maxKept bounds the commits kept for watches, in bytes.
const maxKept = 16 << 20

// hub keeps the last commits and wakes watchers.
type hub struct {
	keep int

	mu      sync.Mutex // guards what follows
	commits []Commit   // contiguous revisions, the newest last
	size    int
	last    uint64
	more    chan struct{} // closed and replaced at each change
	closed  error
}

func newHub(last uint64, keep int) *hub {
	return &hub{keep: keep, last: last, more: make(chan struct{})}
}

func (h *hub) add(commits []Commit) {
	if len(commits) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range commits {
		h.commits = append(h.commits, c)
		h.size += c.size()
		h.last = c.Revision
	}
	drop := 0
	for len(h.commits)-drop > h.keep || h.size > maxKept && len(h.commits)-drop > 1 {
		h.size -= h.commits[drop].size()
		drop++
	}
	if drop > 0 {
		clear(h.commits[:drop]) // free what they hold
		h.commits = h.commits[drop:]
	}
	close(h.more)
	h.more = make(chan struct{})
}

func (h *hub) close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed == nil {
		h.closed = err
	}
	close(h.more)
	h.more = make(chan struct{})
}

func (c Commit) size() int {
	n := 64
	for _, ch := range c.Changes {
		n += len(ch.Key) + len(ch.Value) + entryOverhead
	}
	return n
}

// after returns the kept commits after a revision, or a channel to wait on.
func (h *hub) after(revision uint64) ([]Commit, <-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.last - revision // commits that are due
	switch {
	case revision > h.last || n > uint64(len(h.commits)):
		return nil, nil, ErrCompacted
	case n > 0:
		out := make([]Commit, n) // the array is cleared as commits go
		copy(out, h.commits[uint64(len(h.commits))-n:])
		return out, nil, nil
	case h.closed != nil:
		return nil, nil, h.closed
	}
	return nil, h.more, nil
}

// watcher implements Watcher.
type watcher struct {
	ch  chan Commit
	err error // written before ch is closed
}

func (w *watcher) Commits() <-chan Commit { return w.ch }

func (w *watcher) Err() error { return w.err }

func (h *hub) watch(ctx context.Context, from uint64) *watcher {
	w := &watcher{ch: make(chan Commit)}
	go func() {
		defer close(w.ch)
		w.err = h.send(ctx, from, w.ch)
	}()
	return w
}

func (h *hub) send(ctx context.Context, from uint64, ch chan<- Commit) error {
	for {
		commits, more, err := h.after(from)
		if err != nil {
			return err
		}
		for _, c := range commits {
			select {
			case ch <- c:
				from = c.Revision
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if more == nil {
			continue
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
