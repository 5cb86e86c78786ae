package qemu

import (
	"context"
	"sync"
	"time"
)

// moveTick is how often a migration is looked at that says nothing by itself.
const moveTick = time.Second

// moves are the migrations that are watched, each by a goroutine until it is
// over or the engine closes: the guest stands still until the target is let go.
type moves struct {
	mu      sync.Mutex
	stop    chan struct{}
	closed  bool
	watched map[string]bool
	group   sync.WaitGroup
}

// watch is idempotent.
func (m *moves) watch(e *Engine, id, attempt string, source *Process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.watched[id] {
		return
	}
	if m.watched == nil {
		m.watched, m.stop = map[string]bool{}, make(chan struct{})
	}
	m.watched[id] = true
	events, cancel := source.Subscribe()
	m.group.Go(func() {
		defer cancel()
		m.follow(e, id, attempt, events)
		m.mu.Lock()
		delete(m.watched, id)
		m.mu.Unlock()
		e.notify(Event{Machine: id, Name: EventMigration, Time: time.Now().UTC()})
	})
}

func (m *moves) follow(e *Engine, id, attempt string, events <-chan Event) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-m.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	tick := time.NewTimer(moveTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case event, open := <-events:
			if open && !advances(event) {
				continue
			}
			if !open {
				events = nil
			}
		}
		t, err := e.Transfer(ctx, id, attempt)
		switch {
		case err == nil && t.State == TransferSwitching:
			tick.Reset(poll)
		case err == nil && t.State != TransferRunning:
			return
		default:
			tick.Reset(moveTick)
		}
	}
}

// advances reports whether a migration may be a step further by an event: memory, or
// the copying of a disk.
func advances(event Event) bool { return event.Name == EventMigration || event.Name == EventJob }

func (m *moves) close() {
	m.mu.Lock()
	if !m.closed && m.stop != nil {
		close(m.stop)
	}
	m.closed = true
	m.mu.Unlock()
	m.group.Wait()
}
