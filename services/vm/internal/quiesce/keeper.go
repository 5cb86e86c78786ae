package quiesce

import (
	"context"
	"time"
)

// Thaw lets the file systems of a guest go on that it was made with at rest: at once,
// or, by the keeper, when it answers.
func (s *Service) Thaw(ctx context.Context, uid string) error {
	turn := s.turn(uid)
	turn.Lock()
	defer turn.Unlock()
	r, err := s.records.Get(ctx, uid)
	if err != nil {
		return err
	}
	now := s.opts.Now()
	r.VM, r.ThawBy = uid, &now
	if err := s.records.Put(ctx, uid, r); err != nil {
		return err
	}
	w := &work{Service: s, record: r, uid: uid}
	if err := w.thaw(ctx); err != nil {
		s.opts.Logger.InfoContext(ctx, "a guest that was put back does not answer yet: it is asked again", "vm", uid, "error", err)
	}
	return nil
}

// Run keeps the promise until ctx ends: it begins with whatever an earlier process
// left frozen.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		if err := s.Pass(ctx); err != nil && ctx.Err() == nil {
			s.opts.Logger.WarnContext(ctx, "what may be frozen is not known", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Pass thaws every guest that nobody works on, and forgets VMs that are gone.
func (s *Service) Pass(ctx context.Context) error {
	if err := s.opts.Ready(ctx); err != nil {
		return err
	}
	records, err := s.records.All(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		gone := !s.opts.Exists(r.VM)
		if r.ThawBy == nil && !gone {
			continue
		}
		if err := s.settle(ctx, r.VM, gone); err != nil {
			s.opts.Logger.WarnContext(ctx, "a guest stays frozen until it answers", "vm", r.VM, "error", err)
		}
	}
	return nil
}

func (s *Service) settle(ctx context.Context, uid string, gone bool) error {
	turn := s.turn(uid)
	if !turn.TryLock() {
		return nil // a request is under way: it thaws by itself
	}
	defer turn.Unlock()
	if gone {
		return s.records.Delete(ctx, uid)
	}
	// Read again: whoever had the lock has changed it.
	r, err := s.records.Get(ctx, uid)
	if err != nil {
		return err
	}
	w := &work{Service: s, record: r, uid: uid}
	if err := w.thaw(ctx); err != nil {
		return err
	}
	s.opts.Logger.InfoContext(ctx, "a guest was thawed that had been left frozen", "vm", uid, "filesystems", r.Thawed)
	return nil
}
