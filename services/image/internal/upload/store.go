package upload

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"orlop.dev/kit/durable"
)

// Store has the uploads of a process. It is safe for concurrent use, but for one
// owner by one caller at a time.
type Store struct {
	options Options

	mu      sync.Mutex
	open    bool
	slots   map[string]*slot // by owner
	byToken map[digest]*slot
}

// New returns a store that takes nothing yet.
func New(o Options) (*Store, error) {
	o = o.withDefaults()
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	return &Store{options: o}, nil
}

// Open reads what an earlier process has left; uploads can go on then. Close ends
// that. A store may be opened again.
func (s *Store) Open() error {
	slots, err := s.load()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open, s.slots, s.byToken = true, slots, map[digest]*slot{}
	for _, slot := range slots {
		if slot.record.Token != "" {
			s.byToken[digestOf(slot.record.Token)] = slot
		}
	}
	return nil
}

// Close takes nothing more. What is durable stays.
func (s *Store) Close() {
	s.mu.Lock()
	slots := s.slots
	s.open, s.slots, s.byToken = false, nil, nil
	s.mu.Unlock()
	for _, one := range slots {
		one.stop()
	}
}

// load reads all records, and removes what belongs to none.
func (s *Store) load() (map[string]*slot, error) {
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil {
		return nil, err
	}
	slots := map[string]*slot{}
	for _, entry := range entries {
		owner, isRecord := strings.CutSuffix(entry.Name(), recordEnd)
		if !isRecord {
			continue
		}
		one := &slot{options: s.options, owner: owner}
		known, err := one.load()
		if err != nil {
			return nil, err
		}
		if known {
			slots[owner] = one
		}
	}
	for _, entry := range entries {
		if owner, _, _ := strings.Cut(entry.Name(), "."); slots[owner] == nil {
			if err := durable.Remove(filepath.Join(s.options.Dir, entry.Name())); err != nil {
				return nil, err
			}
		}
	}
	return slots, nil
}

// Ensure waits for a file, unless it does already, and returns how far it is.
// Idempotent.
func (s *Store) Ensure(w Wish) (State, error) {
	s.mu.Lock()
	open, old := s.open, s.slots[w.Owner]
	s.mu.Unlock()
	if !open {
		return State{}, errNotServing()
	}
	if old != nil && old.state().Version == w.Version {
		old.mu.Lock()
		old.changed = w.Changed
		old.mu.Unlock()
		return old.state(), nil
	}
	if err := s.Drop(w.Owner); err != nil {
		return State{}, err
	}
	return s.add(w)
}

func (s *Store) add(w Wish) (State, error) {
	one := &slot{options: s.options, owner: w.Owner, touched: s.options.Now(), changed: w.Changed}
	token := newToken()
	one.files.Lock()
	err := one.save(func(r *record) { r.Version, r.Token, r.Length = w.Version, token, UnknownLength })
	one.files.Unlock()
	if err != nil {
		return State{}, err
	}
	s.mu.Lock()
	if s.open {
		s.slots[w.Owner] = one
		s.byToken[digestOf(token)] = one
	}
	s.mu.Unlock()
	return one.state(), nil
}

// State returns the state of an owner's upload; false if there is none.
func (s *Store) State(owner string) (State, bool) {
	if one := s.slot(owner); one != nil {
		return one.state(), true
	}
	return State{}, false
}

func (s *Store) slot(owner string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slots[owner]
}

// Drop forgets an owner's upload and what has arrived. Idempotent.
func (s *Store) Drop(owner string) error {
	one := s.slot(owner)
	if one == nil {
		return nil
	}
	if err := one.drop(); err != nil {
		return classify(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slots[owner] == one {
		delete(s.slots, owner)
	}
	s.unlist(one)
	return nil
}

// unlist forgets a slot's token. The caller has mu.
func (s *Store) unlist(one *slot) {
	for token, listed := range s.byToken {
		if listed == one {
			delete(s.byToken, token)
		}
	}
}

// Fail gives an owner's upload up, for good: what has arrived is dropped, and the
// reason stays until Drop, or Ensure with another version. Idempotent.
func (s *Store) Fail(owner string, version int32, why Failure) error {
	one := s.slot(owner)
	if one == nil {
		return nil
	}
	if state := one.state(); state.Version != version || state.Stage == Failed {
		return nil
	}
	if err := one.fail(why); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlist(one)
	return nil
}

// Expire gives up what nobody has gone on with for Options.Timeout.
func (s *Store) Expire() error {
	now := s.options.Now()
	s.mu.Lock()
	var overdue []*slot
	for _, one := range s.slots {
		if one.overdue(now) {
			overdue = append(overdue, one)
		}
	}
	s.mu.Unlock()
	var failed []error
	for _, one := range overdue {
		failed = append(failed, s.Fail(one.owner, one.state().Version, Failure{
			Reason: ReasonTimeout,
			Message: "No byte of the file has arrived for " + s.options.Timeout.String() +
				": create the object anew, or change its spec, to get another address.",
		}))
	}
	return errors.Join(failed...)
}

// Run expires uploads until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(min(max(s.options.Timeout/100, 10*time.Millisecond), 5*time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.Expire(); err != nil {
				s.options.Logger.Warn("uploads can't be expired", "error", err)
			}
		}
	}
}
