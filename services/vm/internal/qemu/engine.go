package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// attachTimeout is Options.AttachTimeout's default.
	attachTimeout = 10 * time.Second
	// killTimeout bounds the wait for a process that was sent SIGKILL.
	killTimeout = 10 * time.Second
	// trashPrefix marks a run folder that is being removed.
	trashPrefix = ".removed-"
)

var (
	// ErrRunning is a machine whose process is alive where it must not be.
	ErrRunning = errors.New("the machine's process is alive")
	// ErrUnresponsive is a process that is alive and doesn't answer over QMP.
	ErrUnresponsive = errors.New("QEMU does not answer")
	// ErrInUse is a folder that another engine, perhaps of another daemon, has.
	ErrInUse = errors.New("the folder is in use by another engine")
	// ErrClosed is an Engine after Close.
	ErrClosed = errors.New("the engine is closed")
)

// Options are what an Engine needs.
type Options struct {
	// Folder holds one run folder for each machine; it is made if missing, for
	// its owner only. One engine at a time uses it.
	Folder string
	// Host is what Probe found.
	Host Host
	// DiskRoots are the folders in which a disk's backing files may lie. A disk
	// with a backing file elsewhere isn't started.
	DiskRoots []string
	// Notify is told each event of each process, in order for one process. It
	// must not block. May be nil.
	Notify func(Event)
	// Limits keeps machines within their CPU.MilliCPU. Where it is nil, they aren't.
	Limits Limiter
	// AttachTimeout bounds the wait for a process that is alive to answer, before
	// it counts as unresponsive; 10 seconds if zero.
	AttachTimeout time.Duration
	// Log is slog.Default() if nil.
	Log *slog.Logger
}

// Limiter limits the processor time of processes, in groups by machines' IDs.
type Limiter interface {
	Limit(group string, pid int, milliCPU int64) error
	Remove(group string) error
	Sweep(kept func(group string) bool) error
}

// Engine owns the machines of one folder. Its methods may be called from
// several goroutines; those for one machine take turns.
type Engine struct {
	folder    string
	host      Host
	diskRoots []string
	notify    func(Event)
	limits    Limiter
	patience  time.Duration // Options.AttachTimeout
	log       *slog.Logger
	lock      *os.File // held until Close

	turns turns

	mu        sync.Mutex
	closed    bool
	processes map[string]*Process // by the names of their run folders

	moves moves
	saves saves
}

// New opens the folder, which no other engine may have open: ErrInUse. QEMU
// answers one connection at a time, so that two engines would take each other's
// guests for hung. It starts and finds nothing yet.
func New(o Options) (*Engine, error) {
	path, err := filepath.Abs(o.Folder)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	e := &Engine{
		folder: path, host: o.Host, diskRoots: o.DiskRoots, notify: o.Notify, limits: o.Limits, log: o.Log,
		patience: o.AttachTimeout, processes: map[string]*Process{},
	}
	if e.patience <= 0 {
		e.patience = attachTimeout
	}
	if e.log == nil {
		e.log = slog.Default()
	}
	if e.notify == nil {
		e.notify = func(Event) {}
	}
	if e.lock, err = lock(filepath.Join(path, lockFile)); err != nil {
		return nil, err
	}
	if e.lock == nil {
		return nil, fmt.Errorf("%s: %w", path, ErrInUse)
	}
	if err := e.sweep(); err != nil {
		return nil, errors.Join(err, e.lock.Close())
	}
	return e, nil
}

// sweep finishes removals that a crash cut short.
func (e *Engine) sweep() error {
	leftovers, err := filepath.Glob(filepath.Join(e.folder, trashPrefix+"*"))
	if err != nil {
		return err
	}
	if e.limits != nil {
		err = e.limits.Sweep(func(id string) bool { return e.folderOf(id).has(lockFile) })
	}
	for _, leftover := range leftovers {
		err = errors.Join(err, os.RemoveAll(leftover))
	}
	return err
}

// Host is what the engine was given.
func (e *Engine) Host() Host { return e.host }

// Close lets go of every process and leaves it running. It returns when no
// goroutine of the engine is left but those that wait for QEMU itself to end.
func (e *Engine) Close() {
	e.moves.close()
	e.mu.Lock()
	e.closed = true
	processes := e.processes
	e.processes = map[string]*Process{}
	e.mu.Unlock()
	for _, p := range processes {
		p.release()
	}
	_ = e.lock.Close() // a second time is no harm
}

// Find gives the machine's process, also one that an earlier daemon started,
// also one that is gone (StateGone, and Ending tells how). Errors: ErrNotFound
// if nothing is recorded, ErrUnresponsive if the process is alive and doesn't
// answer; Start and Kill deal with such a one.
func (e *Engine) Find(ctx context.Context, id string) (*Process, error) {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return nil, err
	}
	defer done()
	return e.find(ctx, id)
}

func (e *Engine) find(ctx context.Context, id string) (*Process, error) {
	if !idPattern.MatchString(id) {
		return nil, fmt.Errorf("%w: %q", ErrNotFound, id)
	}
	if err := e.settle(ctx, id); err != nil {
		return nil, err
	}
	return e.findIn(ctx, e.folderOf(id))
}

// findIn finds the process of a run folder.
func (e *Engine) findIn(ctx context.Context, f folder) (*Process, error) {
	e.mu.Lock()
	p, closed := e.processes[f.name()], e.closed
	e.mu.Unlock()
	if closed {
		return nil, ErrClosed
	}
	alive, err := f.alive()
	if err != nil {
		return nil, err
	}
	if p != nil && !p.isGone() {
		if !alive {
			// It died just now: let its own goroutine say so first.
			err = p.awaitGone(ctx)
		}
		return p, err
	}
	r, err := f.record()
	if err != nil && alive {
		// The record is lost: nothing is known of this process but its folder.
		return nil, fmt.Errorf("%w: %s: %v", ErrUnresponsive, f.name(), err) //nolint:errorlint // err may be ErrNotFound, which the process is not
	}
	if err != nil {
		return nil, err
	}
	if !alive {
		return e.departed(f, r.Machine), nil
	}
	ctx, cancel := context.WithTimeout(ctx, e.patience)
	defer cancel()
	p, err = e.reach(ctx, f, r.Machine)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrUnresponsive, f.name(), err)
	}
	return p, nil
}

// reach attaches to a process that is alive, but perhaps just starting.
func (e *Engine) reach(ctx context.Context, f folder, m Machine) (*Process, error) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		p, err := e.attach(ctx, f, m)
		if err == nil {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
		if alive, lookErr := f.alive(); lookErr == nil && !alive {
			return e.departed(f, m), nil
		}
	}
}

// Kill ends the machine's process, answering or not, without asking the guest,
// and returns when it is gone; and before it the one that was to take it over.
// What isn't there is gone already. The run folder
// stays, so that Ending can be asked; Remove takes it away.
func (e *Engine) Kill(ctx context.Context, id string) error {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	if !idPattern.MatchString(id) {
		return nil
	}
	if err := e.discard(ctx, e.peerOf(id), id); err != nil {
		return err
	}
	p, err := e.findIn(ctx, e.folderOf(id))
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case errors.Is(err, ErrUnresponsive):
		f := e.folderOf(id)
		return errors.Join(f.recordEnding(""), f.killAndWait(ctx, id))
	case err != nil:
		return err
	}
	return p.Kill(ctx)
}

// List gives the IDs of all machines that are recorded, alive or not.
func (e *Engine) List() ([]string, error) {
	entries, err := os.ReadDir(e.folder)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, entry := range entries {
		if !idPattern.MatchString(entry.Name()) {
			continue
		}
		if _, err := os.Stat(e.folderOf(entry.Name()).path(recordFile)); err == nil {
			ids = append(ids, entry.Name())
		}
	}
	return ids, nil
}

// Remove forgets a machine whose process is gone, and fails with ErrRunning
// otherwise. What isn't there is removed already.
func (e *Engine) Remove(ctx context.Context, id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("%w: %q", ErrInvalid, id)
	}
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	if err := e.discard(ctx, e.peerOf(id), id); err != nil {
		return err
	}
	f := e.folderOf(id)
	if !f.exists() {
		return nil
	}
	lock, err := f.acquire()
	if err != nil {
		return err
	}
	if lock == nil {
		return fmt.Errorf("%s: %w", id, ErrRunning)
	}
	defer lock.Close()
	if err := e.unlimit(ctx, id); err != nil {
		return err
	}
	return e.trash(f)
}

// trash forgets a run folder without a process.
func (e *Engine) trash(f folder) error {
	e.mu.Lock()
	p := e.processes[f.name()]
	delete(e.processes, f.name())
	e.mu.Unlock()
	if p != nil {
		p.release()
	}
	// Renamed first: half a folder must not be taken for a machine.
	trash := filepath.Join(e.folder, trashPrefix+f.name())
	if err := errors.Join(os.RemoveAll(trash), os.Rename(string(f), trash)); err != nil {
		return err
	}
	return os.RemoveAll(trash)
}

func (e *Engine) folderOf(id string) folder { return folder(filepath.Join(e.folder, id)) }
