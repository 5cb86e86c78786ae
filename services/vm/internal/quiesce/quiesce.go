// Package quiesce moves the disks of a running guest to new files, at one moment
// and with the guest's file systems at rest, and keeps its memory of that moment
// where that is wanted.
//
// It owns the promise that a frozen guest is thawed: what it is about to freeze it
// writes down first, and whatever is written down is thawed, by the request, by
// the keeper, or by the next process's. It must not know what the files are for.
package quiesce

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/record"
)

// ReasonInconsistent is that of a guest whose file systems can't be brought to
// rest.
const ReasonInconsistent = "PotentiallyInconsistent"

// ReasonMemory is that of a guest whose memory can't be kept.
const ReasonMemory = "MemoryNotKept"

const (
	// bound is how long a guest may be frozen, keepBound how long its memory may be
	// written while it is not.
	bound     = 40 * time.Second
	keepBound = 10 * time.Minute
	// keepEvery is how often what may be frozen is looked for.
	keepEvery = 2 * time.Second
	// thawReserve is kept of the bound for thawing.
	thawReserve = 10 * time.Second
	// tryAgain is when to ask a guest again that could not be frozen.
	tryAgain = 10 * time.Second
)

// Overlay is a new file for a device of a guest.
type Overlay struct {
	// Device is its ID, as in machine.Device.
	Device string
	Path   string
}

// Engine reaches guests, by the UIDs of their VMs.
type Engine interface {
	// Switched reports whether there is a guest, and whether it writes to these
	// files already.
	Switched(ctx context.Context, uid string, overlays []Overlay) (running, switched bool, err error)
	// Switch makes it write to them, all at one moment. Idempotent.
	Switch(ctx context.Context, uid string, overlays []Overlay) error
	// Keep does the same, and keeps the guest's memory as it is at that moment, under
	// a token. It takes as long as the memory is large; the guest runs meanwhile.
	// atRest says that its file systems are frozen. Class Invalid where that can't be.
	Keep(ctx context.Context, uid, token string, overlays []Overlay, atRest bool) error
	// Drop takes kept memory away. Idempotent.
	Drop(ctx context.Context, token string) error
	// Freeze brings the file systems to rest and counts them. Thaw must follow.
	// Class NotReady where the guest can't.
	Freeze(ctx context.Context, uid string) (int, error)
	// Thaw lets them go on, and counts those that were frozen until then; none for
	// a guest that ended.
	Thaw(ctx context.Context, uid string) (int, error)
}

// Record is what is known of the last switch of one VM.
type Record struct {
	record.Version

	VM    string `json:"vm"`
	Token string `json:"token,omitempty"`
	// ThawBy is set before a guest is asked to freeze, and cleared when it is
	// thawed.
	ThawBy *time.Time `json:"thawBy,omitempty"`
	// Frozen is how many file systems were frozen, and Thawed how many of them were
	// so until they were thawed.
	Frozen int `json:"frozen,omitempty"`
	Thawed int `json:"thawed,omitempty"`
	// Done is a switch that happened, AtRest one with the file systems at rest.
	Done   bool `json:"done,omitempty"`
	AtRest bool `json:"atRest,omitempty"`
	// Memory is a switch with which the guest's memory was kept.
	Memory bool `json:"memory,omitempty"`
}

// Options say what a Service works with.
type Options struct {
	Etcd   *clientv3.Client
	Prefix string
	Engine Engine
	// Machine finds a VM.
	Machine func(key resource.Key) (*vmv1.VirtualMachine, bool)
	// Exists reports whether there is a VM of that UID; Ready whether that is known.
	Exists func(uid string) bool
	Ready  func(ctx context.Context) error
	Device func(disk string) string
	Now    func() time.Time
	Logger *slog.Logger
}

// Service implements vmv1.GuestDiskServiceServer.
type Service struct {
	vmv1.UnimplementedGuestDiskServiceServer

	opts    Options
	records *record.Store[Record, *Record]

	mu    sync.Mutex
	turns map[string]*sync.Mutex
}

// New returns the service.
func New(opts Options) *Service {
	return &Service{
		opts: opts, records: record.New[Record](opts.Etcd, opts.Prefix+"/quiesce/"), turns: map[string]*sync.Mutex{},
	}
}

// turn makes the switches of one VM take turns.
func (s *Service) turn(uid string) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	turn := s.turns[uid]
	if turn == nil {
		turn = new(sync.Mutex)
		s.turns[uid] = turn
	}
	return turn
}

// SwitchGuestDisks implements vmv1.GuestDiskServiceServer.
func (s *Service) SwitchGuestDisks(ctx context.Context, request *vmv1.SwitchGuestDisksRequest) (*vmv1.SwitchGuestDisksResponse, error) {
	uid := request.GetUid()
	vm, found := s.opts.Machine(resource.Key{Namespace: request.GetNamespace(), Name: request.GetName()})
	if !found || vm.GetMetadata().GetUid() != uid {
		return &vmv1.SwitchGuestDisksResponse{}, nil
	}
	// What was begun ends, whether or not the caller is still there.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), boundOf(request))
	defer cancel()
	turn := s.turn(uid)
	turn.Lock()
	defer turn.Unlock()
	last, err := s.records.Get(ctx, uid)
	if err != nil {
		return nil, err
	}
	if last.Token == request.GetToken() && last.Done {
		return &vmv1.SwitchGuestDisksResponse{Running: true, AtRest: last.AtRest, Memory: last.Memory}, nil
	}
	w := &work{Service: s, record: last, uid: uid, memory: request.GetMemory()}
	for _, file := range request.GetFiles() {
		w.overlays = append(w.overlays, Overlay{Device: s.opts.Device(file.GetVirtualDiskName()), Path: file.GetPath()})
	}
	return w.run(ctx, request)
}

// work is one request under way.
type work struct {
	*Service
	record   *Record
	uid      string
	overlays []Overlay
	memory   bool
}

func (w *work) run(ctx context.Context, request *vmv1.SwitchGuestDisksRequest) (*vmv1.SwitchGuestDisksResponse, error) {
	running, switched, err := w.opts.Engine.Switched(ctx, w.uid, w.overlays)
	if err != nil {
		return nil, err
	}
	// A process that was killed may have left it frozen: if it was the same switch,
	// and nothing was thawed since, it happened at rest. A guest that does not answer
	// is thawed when it does, by the keeper.
	stuck := w.thaw(ctx)
	if stuck != nil && request.GetRest() == vmv1.GuestRest_Required {
		return nil, stuck
	}
	if !running {
		return &vmv1.SwitchGuestDisksResponse{}, nil
	}
	own := w.record.Token == request.GetToken()
	rested := own && w.record.rested()
	if !own {
		*w.record = Record{Version: w.record.Version, VM: w.uid, Token: request.GetToken(), ThawBy: w.record.ThawBy}
	}
	if !switched {
		rest := restOf(request)
		if stuck != nil {
			rest = vmv1.GuestRest_None
		}
		if rested, err = w.move(ctx, rest); err != nil {
			return nil, err
		}
	}
	w.record.Done, w.record.AtRest = true, rested
	if err := w.records.Put(ctx, w.uid, w.record); err != nil {
		return nil, err
	}
	return &vmv1.SwitchGuestDisksResponse{Running: true, AtRest: rested, Memory: w.record.Memory}, nil
}

// move switches the files, and reports whether the file systems were at rest.
func (w *work) move(ctx context.Context, rest vmv1.GuestRest_Value) (bool, error) {
	if rest == vmv1.GuestRest_None {
		return false, w.change(ctx)
	}
	err := w.freeze(ctx)
	if err != nil && rest == vmv1.GuestRest_Required {
		thawing := w.thaw(ctx)
		if !fault.Is(err, fault.NotReady) {
			return false, errors.Join(err, thawing)
		}
		return false, fault.Wrap(err, fault.NotReady, ReasonInconsistent, "%s", fault.From(err).Message).WithRetryAfter(tryAgain)
	}
	switching := w.change(ctx)
	// Thawed at once, whatever came of it; the keeper goes on if the guest doesn't
	// answer now.
	thawing := w.thaw(ctx)
	if switching != nil {
		return false, errors.Join(switching, thawing)
	}
	if thawing != nil {
		w.opts.Logger.WarnContext(ctx, "a frozen guest does not answer: it is asked again", "vm", w.uid, "error", thawing)
		if rest != vmv1.GuestRest_Required { // nobody waits to hear whether it was at rest
			thawing = nil
		}
	}
	return w.record.rested(), thawing
}

// rested reports whether what was frozen stayed so until it was thawed by us.
func (r *Record) rested() bool { return r.Frozen > 0 && r.ThawBy == nil && r.Thawed >= r.Frozen }

func (w *work) freeze(ctx context.Context) error {
	by := w.opts.Now().Add(bound)
	w.record.ThawBy, w.record.Frozen, w.record.Thawed = &by, 0, 0
	if err := w.records.Put(ctx, w.uid, w.record); err != nil {
		return err
	}
	count, err := w.opts.Engine.Freeze(ctx, w.uid)
	if err != nil {
		return err
	}
	w.record.Frozen = count
	return w.records.Put(ctx, w.uid, w.record)
}

// thaw thaws what may be frozen, and writes down that it is.
func (w *work) thaw(ctx context.Context) error {
	if w.record.ThawBy == nil {
		return nil
	}
	count, err := w.opts.Engine.Thaw(ctx, w.uid)
	if err != nil {
		return err
	}
	w.record.ThawBy, w.record.Thawed = nil, count
	return w.records.Put(ctx, w.uid, w.record)
}
