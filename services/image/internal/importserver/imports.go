// Package importserver brings files into DVCR for objects of other services, such as
// what a VirtualDisk is made from: the ImportService.
//
// It owns what was asked for, in memory alone: its owners say again what they want
// after a restart. The way of a file is package intake's. It must not know what an
// owner does with its file.
package importserver

import (
	"context"
	"log/slog"
	"sync"
	"time"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/intake"
)

// lookAgain is how often an import is looked at that waits for something of which
// no event tells: a Secret, a registry that is away.
const lookAgain = 5 * time.Second

// Server is the ImportService.
type Server struct {
	imagev1.UnimplementedImportServiceServer
	way *intake.Intake
	log *slog.Logger

	mu      sync.Mutex
	leading bool
	wanted  map[string]*wanted // by the owner's UID
	turned  map[string]bool    // to be looked at, by Run
	wake    chan struct{}
	watches map[*watch]bool
}

// wanted is an import that an owner asked for.
type wanted struct {
	owner *metav1.Holder
	wish  intake.Wish // guarded by Server.mu
	// one is held by who takes the next step; changed tells who holds it that the
	// import is further.
	one, changed chan struct{}
	// due is set while somebody waits for one in order to look. Guarded by
	// Server.mu, as all below.
	due bool
	// told is what was seen last; nil before the first look.
	told *imagev1.Import
	// waits is set where only another look can find more.
	waits bool
}

// New returns the service. It answers while Run runs.
func New(way *intake.Intake, log *slog.Logger) *Server {
	return &Server{
		way: way, log: log, wanted: map[string]*wanted{}, turned: map[string]bool{},
		wake: make(chan struct{}, 1), watches: map[*watch]bool{},
	}
}

// Run looks at imports that have got further, until ctx ends, and then forgets
// them all. It may run again, but not twice at once.
func (s *Server) Run(ctx context.Context) error {
	s.lead(true)
	defer s.lead(false)
	var group sync.WaitGroup
	defer group.Wait()
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-tick.C:
			s.turnWaiting()
		}
		for _, w := range s.takeTurned() {
			group.Go(func() { s.look(ctx, w) })
		}
	}
}

// look is a step that nobody waits for.
func (s *Server) look(ctx context.Context, w *wanted) {
	if _, err := s.step(ctx, w); err != nil && ctx.Err() == nil {
		s.log.Warn("an import can't be looked at", "owner", w.owner.GetName(), "error", err)
	}
}

// lead begins or ends with nothing: who watched has to ask again.
func (s *Server) lead(leading bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leading, s.wanted, s.turned = leading, map[string]*wanted{}, map[string]bool{}
	for w := range s.watches {
		close(w.over)
		delete(s.watches, w)
	}
}

// turn has an import looked at. It never blocks.
func (s *Server) turn(uid string) {
	s.mu.Lock()
	s.turned[uid] = true
	w := s.wanted[uid]
	s.mu.Unlock()
	poke(s.wake)
	if w != nil {
		poke(w.changed)
	}
}

// poke tells something to who may be busy with an earlier telling.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *Server) turnWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid, w := range s.wanted {
		if w.waits {
			s.turned[uid] = true
		}
	}
}

func (s *Server) takeTurned() []*wanted {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*wanted
	for uid := range s.turned {
		if w := s.wanted[uid]; w != nil && !w.due {
			w.due = true
			all = append(all, w)
		}
	}
	s.turned = map[string]bool{}
	return all
}

// step takes an import's next step and tells of it.
func (s *Server) step(ctx context.Context, w *wanted) (*imagev1.Import, error) {
	if err := w.lock(ctx); err != nil {
		return nil, err
	}
	defer w.unlock()
	s.mu.Lock()
	w.due = false // what comes from now on needs another look
	current, wish := s.wanted[w.owner.GetUid()] == w, w.wish
	s.mu.Unlock()
	if !current {
		return nil, fault.New(fault.NotReady, "ImportDeleted", "the import was deleted meanwhile")
	}
	observed, err := s.way.Step(ctx, wish)
	if err != nil && observed.Waits == nil && observed.Unseen == nil && observed.Job == nil && observed.Upload == nil {
		return nil, err
	}
	told := tell(w.owner, wish, &observed, s.way.Registry)
	s.mu.Lock()
	defer s.mu.Unlock()
	w.told, w.waits = told, told.GetStage() == imagev1.ImportStage_Retrying && observed.Job == nil
	s.announce(w)
	return told, nil
}

// lock waits for the import's turn.
func (w *wanted) lock(ctx context.Context) error {
	select {
	case w.one <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *wanted) unlock() { <-w.one }

// notLeading refuses what only the replica can do that imports.
func notLeading() error {
	return fault.New(fault.Transient, "NotLeading", "this replica of the image service doesn't import now: try again")
}
