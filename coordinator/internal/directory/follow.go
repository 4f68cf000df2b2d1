package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/store"
)

// follow turns commits into snapshots until ctx ends or something cannot be
// read.
func (d *Directory) follow(ctx context.Context) {
	for {
		err := d.replay(ctx, d.store.Watch(ctx, d.current.Load().Revision))
		if errors.Is(err, store.ErrCompacted) {
			var snap *Snapshot
			if snap, err = load(ctx, d.store); err == nil {
				d.publish(snap, true)
				continue
			}
		}
		d.stop(err)
		return
	}
}

func (d *Directory) replay(ctx context.Context, w store.Watcher) error {
	for commit := range w.Commits() {
		b := builder{next: d.current.Load().clone()}
		if err := b.apply(commit); err != nil {
			return err
		}
		// Whatever else is there already goes into the same snapshot.
		for more := true; more; {
			select {
			case c, ok := <-w.Commits():
				if !ok {
					more = false
					break
				}
				if err := b.apply(c); err != nil {
					return err
				}
			default:
				more = false
			}
		}
		d.publish(b.next, len(b.owned) > 0)
	}
	if err := w.Err(); err != nil {
		return err
	}
	return ctx.Err()
}

// publish makes s the current snapshot. Subscribers hear of it only if the
// directory itself changed: the overlay's own keys move the revision too.
func (d *Directory) publish(s *Snapshot, changed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current.Store(s)
	close(d.newer)
	d.newer = make(chan struct{})
	if !changed {
		return
	}
	for ch := range d.subscribers {
		// Only this function sends, under the lock, so after making room the
		// send cannot block.
		select {
		case <-ch:
		default:
		}
		ch <- s
	}
}

func (d *Directory) stop(err error) {
	if err == nil {
		err = errors.New("store closed the watch")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	close(d.newer)
	d.newer = make(chan struct{})
	close(d.done)
	for ch := range d.subscribers {
		delete(d.subscribers, ch)
		close(ch)
	}
	if !errors.Is(err, context.Canceled) {
		d.log.Error("directory stopped following the store", "error", err)
	}
}

// load reads everything at one revision.
func load(ctx context.Context, s store.Store) (*Snapshot, error) {
	b := builder{next: &Snapshot{names: &names{}}, owned: make(map[string]bool)}
	err := s.View(ctx, func(r store.Reader) error {
		b.next.Revision = r.Revision()
		for _, prefix := range prefixes {
			err := r.List(prefix, func(it store.Item) error {
				return b.set(prefix, strings.TrimPrefix(it.Key, prefix), it.Value)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b.next, nil
}

// builder makes the next snapshot: it copies the map of a kind once, when the
// first object of that kind changes, and shares the others with the last one.
type builder struct {
	next  *Snapshot
	owned map[string]bool
}

func (b *builder) apply(c store.Commit) error {
	for _, ch := range c.Changes {
		kind, id, ok := strings.Cut(ch.Key, "/")
		if !ok {
			continue
		}
		if err := b.set(kind+"/", id, ch.Value); err != nil {
			return fmt.Errorf("revision %d: %w", c.Revision, err)
		}
	}
	b.next.Revision = c.Revision
	return nil
}

// set puts one object into the snapshot; a nil value takes it out. Keys of
// other kinds (passwords, tokens, the overlay's) are none of the snapshot's.
func (b *builder) set(prefix, id string, value []byte) error {
	if b.owned == nil {
		b.owned = make(map[string]bool)
	}
	s := b.next
	switch prefix {
	case users.prefix:
		return setIn(b, users, &s.Users, id, value)
	case groups.prefix:
		return setIn(b, groups, &s.Groups, id, value)
	case projects.prefix:
		return setIn(b, projects, &s.Projects, id, value)
	case clusters.prefix:
		return setIn(b, clusters, &s.Clusters, id, value)
	case roles.prefix:
		return setIn(b, roles, &s.Roles, id, value)
	case grants.prefix:
		return setIn(b, grants, &s.Grants, id, value)
	case devices.prefix:
		return setIn(b, devices, &s.Devices, id, value)
	case sessions.prefix:
		return setIn(b, sessions, &s.Sessions, id, value)
	case agents.prefix:
		return setIn(b, agents, &s.Agents, id, value)
	}
	return nil
}

func setIn[T any, P message[T]](b *builder, t table[T, P], m *map[string]*T, id string, value []byte) error {
	if *m == nil {
		*m = make(map[string]*T)
	}
	if !b.owned[t.prefix] {
		*m = maps.Clone(*m)
		b.owned[t.prefix] = true
		if t.check != nil {
			b.next.names = &names{} // built anew at the next lookup by name
		}
	}
	if value == nil {
		delete(*m, id)
		return nil
	}
	obj, err := t.decode(id, value)
	if err != nil {
		return err
	}
	(*m)[id] = obj
	return nil
}
