package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// settle does what is due for a machine in the middle of a migration, or of a save
// that nobody goes on with.
func (e *Engine) settle(ctx context.Context, id string) error {
	if err := e.settleSaving(ctx, id); err != nil {
		return err
	}
	main := e.folderOf(id)
	if main.has(owedFile) {
		return e.finish(ctx, id, nil)
	}
	if !e.peerOf(id).exists() {
		return nil
	}
	m, err := main.move()
	if err != nil || m.Attempt == "" || m.Failed != "" || m.Moved != nil {
		return err
	}
	_, err = e.advance(ctx, id, m.Attempt)
	return err
}

// advance decides by what both processes say.
func (e *Engine) advance(ctx context.Context, id, attempt string) (Transfer, error) {
	main := e.folderOf(id)
	if main.has(owedFile) {
		if err := e.finish(ctx, id, nil); err != nil {
			return Transfer{}, err
		}
	}
	m, err := main.move()
	if err != nil {
		return Transfer{}, err
	}
	if over, is := e.outcome(main, m, attempt); is {
		return over, nil
	}
	source, err := e.findIn(ctx, main)
	if errors.Is(err, ErrNotFound) {
		return Transfer{State: TransferNone}, nil
	}
	if err != nil {
		return Transfer{}, err
	}
	if m.Attempt == attempt {
		return e.advanceSource(ctx, id, m, source)
	}
	if source.isGone() {
		return Transfer{State: TransferNone}, nil
	}
	return e.waiting(ctx, id, attempt)
}

// advanceSource decides by what a source says that was told to send, or by its
// being gone.
func (e *Engine) advanceSource(ctx context.Context, id string, m move, source *Process) (Transfer, error) {
	attempt := m.Attempt
	info, err := source.sending(ctx)
	if m.Copying {
		info = migrateInfo{}
	}
	switch {
	case errors.Is(err, ErrGone):
		return e.handOver(ctx, id, attempt, migrateInfo{ErrorDesc: "the process that was to be moved ended"})
	case err != nil:
		return Transfer{}, err
	case info.Status == "completed":
		return e.handOver(ctx, id, attempt, info)
	case info.failed():
		message := cmp.Or(info.ErrorDesc, "it was "+info.Status)
		return Transfer{State: TransferFailed, Failure: message}, e.fail(ctx, id, attempt, message)
	}
	peer, err := e.peerOf(id).record()
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Transfer{}, err
	}
	if info.idle() && len(peer.Copies) == 0 {
		return e.waiting(ctx, id, attempt) // killed before it was told
	}
	e.moves.watch(e, id, attempt, source)
	if len(peer.Copies) == 0 {
		return info.transfer(), nil
	}
	return e.advanceWithCopies(ctx, id, peer, source, info)
}

// outcome is how an attempt ended, if it did.
func (e *Engine) outcome(main folder, m move, attempt string) (Transfer, bool) {
	if r, err := main.record(); err == nil && r.Attempt == attempt {
		t := Transfer{State: TransferMoved}
		if m.Moved != nil {
			t.Elapsed = time.Duration(m.Moved.ElapsedMillis) * time.Millisecond
			t.Downtime = time.Duration(m.Moved.DowntimeMillis) * time.Millisecond
		}
		return t, true
	}
	if m.Attempt == attempt && m.Failed != "" {
		return Transfer{State: TransferFailed, Failure: m.Failed}, true
	}
	return Transfer{}, false
}

func (e *Engine) waiting(ctx context.Context, id, attempt string) (Transfer, error) {
	target, err := e.target(ctx, id, attempt)
	if err != nil || target == nil {
		return Transfer{State: TransferNone}, err
	}
	return Transfer{State: TransferWaiting}, nil
}

// handOver makes a target that has everything the machine; one that is lost
// fails the migration. The source has stopped, or is gone.
func (e *Engine) handOver(ctx context.Context, id, attempt string, source migrateInfo) (Transfer, error) {
	target, err := e.target(ctx, id, attempt)
	if err != nil {
		return Transfer{}, err
	}
	message := "the target ended: " + e.peerOf(id).lastWords()
	if target != nil {
		info, err := target.sending(ctx)
		switch {
		case err != nil && !errors.Is(err, ErrGone):
			return Transfer{}, err
		case err == nil && info.Status == "completed":
			return e.exchange(ctx, id, attempt, source)
		case err == nil && source.Status == "completed" && info.listening():
			return Transfer{State: TransferWaiting}, nil // the source had been sent to a file, and was killed before it was told
		case err == nil && source.Status == "completed" && !info.failed():
			return Transfer{State: TransferSwitching}, nil
		}
	}
	if source.ErrorDesc != "" {
		message = source.ErrorDesc
	}
	return Transfer{State: TransferFailed, Failure: message}, e.fail(ctx, id, attempt, message)
}

// exchange makes the target the machine, then lets it go. It needs no fsync: a
// host that goes down takes both processes with it.
func (e *Engine) exchange(ctx context.Context, id, attempt string, source migrateInfo) (Transfer, error) {
	// From here on there is no waiting for a caller who left.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
	defer cancel()
	main, peer := e.folderOf(id), e.peerOf(id)
	if err := errors.Join(peer.mark(startedFile), peer.mark(owedFile)); err != nil {
		return Transfer{}, err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, string(main), unix.AT_FDCWD, string(peer), unix.RENAME_EXCHANGE); err != nil {
		err = &os.LinkError{Op: "exchange", Old: string(main), New: string(peer), Err: err}
		return Transfer{State: TransferFailed, Failure: err.Error()}, errors.Join(err, e.fail(ctx, id, attempt, err.Error()))
	}
	e.mu.Lock()
	old, taken := e.processes[main.name()], e.processes[peer.name()]
	e.processes[main.name()], e.processes[peer.name()] = taken, old
	for f, p := range map[folder]*Process{main: taken, peer: old} {
		if p != nil {
			p.where.Store(&f)
		}
	}
	e.mu.Unlock()
	if old != nil && taken != nil {
		taken.console.Continue(old.console)
	}
	if err := e.finish(ctx, id, &source); err != nil {
		return Transfer{}, err
	}
	return Transfer{State: TransferMoved, Elapsed: source.elapsed(), Downtime: source.downtime()}, nil
}

// finish does what follows the exchange; it may be repeated.
func (e *Engine) finish(ctx context.Context, id string, source *migrateInfo) error {
	main, peer := e.folderOf(id), e.peerOf(id)
	p, err := e.findIn(ctx, main)
	if err != nil {
		return err
	}
	r, err := main.record()
	if err != nil {
		return err
	}
	if err := markCopies(r.Copies); err != nil {
		return err
	}
	if !p.isGone() {
		if err := p.takeOver(ctx, r.Copies); err != nil && !errors.Is(err, ErrGone) {
			return err
		}
	}
	if err := e.discard(ctx, peer, id); err != nil {
		return err
	}
	if !p.isGone() {
		p.forwardPorts(ctx)
	}
	if source != nil {
		took := moved{ElapsedMillis: source.TotalTime, DowntimeMillis: source.Downtime}
		if err := main.setMove(move{Attempt: r.Attempt, Moved: &took}); err != nil {
			return err
		}
	}
	return main.remove(owedFile)
}

// takeOver lets a target that is the machine now go on with its disks.
func (p *Process) takeOver(ctx context.Context, copies []Copy) error {
	if len(copies) > 0 {
		if err := p.endExports(ctx); err != nil {
			return err
		}
	}
	return p.wake(ctx)
}

// fail ends the target first, then lets the guest go where it was, then writes
// down how it was.
func (e *Engine) fail(ctx context.Context, id, attempt, message string) error {
	main := e.folderOf(id)
	source, err := e.findIn(ctx, main)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if source != nil && !source.isGone() {
		// A target that does not answer must not hold the source's disks.
		if err := source.endCopies(ctx); err != nil && !errors.Is(err, ErrGone) {
			return err
		}
	}
	if err := e.discard(ctx, e.peerOf(id), id); err != nil || source == nil {
		return err
	}
	m, err := main.move()
	if err != nil {
		return err
	}
	if m.Attempt == attempt && !source.isGone() {
		if err := source.wake(ctx); err != nil && !errors.Is(err, ErrGone) {
			return err
		}
	}
	return main.setMove(move{Attempt: attempt, Failed: message})
}

// discard ends a process that is not, or no longer, the machine, and removes
// what it has.
func (e *Engine) discard(ctx context.Context, f folder, id string) error {
	if !f.exists() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	if err := f.killAndWait(ctx, id); err != nil {
		return fmt.Errorf("end %s: %w", f.name(), err)
	}
	return e.trash(f)
}
