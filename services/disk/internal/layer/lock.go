package layer

import (
	"context"
	"sync"
)

// locks are one lock for each volume.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is given back
}

// take waits for the lock of a volume, or for the end of ctx.
func (l *locks) take(ctx context.Context, id string) (unlock func(), err error) {
	for {
		l.mu.Lock()
		other, taken := l.held[id]
		if !taken {
			mine := make(chan struct{})
			if l.held == nil {
				l.held = map[string]chan struct{}{}
			}
			l.held[id] = mine
			l.mu.Unlock()
			return func() { l.release(id, mine) }, nil
		}
		l.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *locks) release(id string, mine chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.held, id)
	close(mine)
}

// jobs are the long works under way, at most one on a volume.
type jobs struct {
	mu      sync.Mutex
	running map[string]*job
}

type job struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// begin registers a job; false if there is one. The caller calls end.
func (j *jobs) begin(ctx context.Context, id string) (working context.Context, end func(), begun bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.running[id] != nil {
		return nil, nil, false
	}
	working, cancel := context.WithCancel(ctx)
	mine := &job{cancel: cancel, done: make(chan struct{})}
	if j.running == nil {
		j.running = map[string]*job{}
	}
	j.running[id] = mine
	return working, func() {
		cancel()
		j.mu.Lock()
		delete(j.running, id)
		j.mu.Unlock()
		close(mine.done)
	}, true
}

// stop cancels the job on a volume and waits until nothing of it is left.
func (j *jobs) stop(ctx context.Context, id string) error {
	j.mu.Lock()
	running := j.running[id]
	j.mu.Unlock()
	if running == nil {
		return nil
	}
	running.cancel()
	select {
	case <-running.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// alone takes a volume's lock and ends the job on it; none begins while the lock
// is held.
func (s *Store) alone(ctx context.Context, id string) (unlock func(), err error) {
	if unlock, err = s.locks.take(ctx, id); err != nil {
		return nil, err
	}
	if err := s.jobs.stop(ctx, id); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// Interrupt ends background work on a volume, and returns when the volume's
// file can be opened: soon, whatever the size.
func (s *Store) Interrupt(ctx context.Context, id string) error {
	unlock, err := s.alone(ctx, id)
	if err != nil {
		return err
	}
	unlock()
	return nil
}
