package qemu

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A machine's memory is saved into a file in which each page has its place (QMP:
// migrate to a file, with mapped-ram), so that it grows no larger than the memory
// however long the guest writes to it meanwhile. QEMU stops the guest before the
// last part (pause-before-switchover): at that instant the disks are switched to
// overlays, so that what lies below them and the memory belong together.
const (
	// memoryFile and machineFile are what Save leaves in its folder.
	memoryFile  = "memory"
	machineFile = "machine.json"
	// savingFile is in the run folder while the machine's memory is being saved.
	savingFile = "saving"
	// firstMapped is the first QEMU with mapped-ram.
	firstMapped = 9
	// saveDowntime is for how long a guest may stand still for its last part, as
	// QEMU reckons it.
	saveDowntime = 300 * time.Millisecond
	// saveRounds is how often the memory of a guest that runs is gone through; after
	// that one that writes faster than the file takes it stands still.
	saveRounds = 8
)

// ErrCannotSave is a machine whose memory can't be saved, whatever is done.
var ErrCannotSave = errors.New("the machine's memory can't be saved")

// saves are the machines whose memory is being saved by this engine. What an
// earlier daemon left is of none.
type saves struct{ machines sync.Map }

// Save keeps a running machine in a folder of the caller's, as it is at the very
// instant at which its disks begin to write to overlays. The guest runs meanwhile,
// and stands still for the last part only. After a failure it goes on as before,
// and what is in the folder is of no use; its disks may write to the overlays.
//
// Errors: ErrCannotSave, ErrBusy while it moves, is saved, or does not run, and
// those of Switch.
func (e *Engine) Save(ctx context.Context, id, dir string, overlays []Overlay) error {
	p, err := e.beginSaving(ctx, id, dir)
	if err != nil {
		return err
	}
	defer e.saves.machines.Delete(id)
	events, cancel := p.Subscribe()
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		done, err := e.advanceSaving(ctx, id, p, overlays, ended(events))
		if err != nil {
			return errors.Join(err, e.stopSaving(id, p))
		}
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), e.stopSaving(id, p))
		case <-tick.C:
		}
	}
}

// ended reports whether the guest has come to its end by one of the events that
// came by now.
func ended(events <-chan Event) bool {
	for {
		select {
		case event, open := <-events:
			if !open || event.Name == EventShutdown || event.Name == EventPanicked || event.Name == EventReset {
				return true
			}
		default:
			return false
		}
	}
}

func (e *Engine) beginSaving(ctx context.Context, id, dir string) (*Process, error) {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return nil, err
	}
	defer done()
	p, err := e.settled(ctx, id)
	if errors.Is(err, ErrMoving) {
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if err != nil {
		return nil, err
	}
	if err := p.savable(ctx); err != nil {
		return nil, err
	}
	if err := p.endStreams(ctx); err != nil {
		return nil, err
	}
	m, err := p.Present(ctx)
	if err != nil {
		return nil, err
	}
	content, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, machineFile), content, 0o600); err != nil {
		return nil, err
	}
	// Written first: a daemon that comes later finds by it what is to be ended.
	if err := p.folder().mark(savingFile); err != nil {
		return nil, err
	}
	e.saves.machines.Store(id, true)
	if err := p.saveTo(ctx, filepath.Join(dir, memoryFile)); err != nil {
		err = errors.Join(err, p.endSaving(ctx))
		e.saves.machines.Delete(id)
		return nil, err
	}
	return p, nil
}

func (p *Process) savable(ctx context.Context) error {
	state, err := p.State(ctx)
	if err != nil {
		return err
	}
	version, _ := p.Version()
	switch {
	case state == StateGone:
		return ErrGone
	case state != StateRunning, p.folder().has(savingFile):
		return fmt.Errorf("%w: the machine does not run, or is being saved", ErrBusy)
	case version.Major < firstMapped:
		return fmt.Errorf("%w: it runs on QEMU %s, and QEMU %d or newer is needed", ErrCannotSave, version, firstMapped)
	}
	return nil
}

// saving capabilities are off but while memory is saved.
func (p *Process) setSaving(ctx context.Context, on bool) error {
	return p.setCapabilities(ctx, map[string]bool{"mapped-ram": on, "pause-before-switchover": on, "events": true, "return-path": false, "auto-converge": false})
}

func (p *Process) saveTo(ctx context.Context, path string) error {
	if err := p.setSaving(ctx, true); err != nil {
		return err
	}
	if err := p.executeWith(ctx, "migrate-set-parameters", map[string]any{
		"max-bandwidth": 0, "downtime-limit": saveDowntime.Milliseconds(),
	}, nil); err != nil {
		return err
	}
	return p.executeWith(ctx, "migrate", map[string]any{"uri": "file:" + path}, nil)
}

// advanceSaving does what is due, and reports whether the guest goes on, saved.
func (e *Engine) advanceSaving(ctx context.Context, id string, p *Process, overlays []Overlay, ended bool) (bool, error) {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return false, err
	}
	defer done()
	info, err := p.sending(ctx)
	switch {
	case err != nil:
		return false, err
	case info.failed():
		return false, fmt.Errorf("save memory: %s", cmp.Or(info.ErrorDesc, "it was "+info.Status))
	case ended:
		return false, fmt.Errorf("%w: the guest has ended or begun anew", ErrBusy)
	case info.Status != preSwitchover && info.RAM.Rounds > saveRounds:
		return false, p.Pause(ctx)
	case info.Status != preSwitchover:
		return false, nil
	}
	if err := p.switchTo(ctx, overlays); err != nil {
		return false, err
	}
	if err := p.goOn(ctx); err != nil {
		return false, err
	}
	if err := p.awaitSaved(ctx); err != nil {
		return false, err
	}
	return true, p.endSaving(ctx)
}

// awaitSaved waits for a migration to a file, or from one, to be complete.
func (p *Process) awaitSaved(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		info, err := p.sending(ctx)
		switch {
		case err != nil:
			return err
		case info.Status == "completed":
			return nil
		case info.failed():
			return fmt.Errorf("memory: %s", cmp.Or(info.ErrorDesc, "it was "+info.Status))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnresponsive, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// stopSaving lets the guest go on, also for a caller who has left.
func (e *Engine) stopSaving(id string, p *Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	return p.endSaving(ctx)
}

// endSaving ends a save, wherever it is, and lets the guest go on that stands
// still for it. It may be repeated.
func (p *Process) endSaving(ctx context.Context) error {
	err := p.letGoOn(ctx)
	if errors.Is(err, ErrGone) {
		err = nil
	}
	return errors.Join(err, p.folder().remove(savingFile))
}

func (p *Process) letGoOn(ctx context.Context) error {
	if err := p.cancelSending(ctx); err != nil {
		return err
	}
	state, err := p.State(ctx)
	if err != nil {
		return err
	}
	if state == StatePaused {
		if err := p.Resume(ctx); err != nil {
			return err
		}
	}
	return p.setSaving(ctx, false)
}

// settleSaving ends what an earlier daemon had begun to save.
func (e *Engine) settleSaving(ctx context.Context, id string) error {
	f := e.folderOf(id)
	if _, own := e.saves.machines.Load(id); own || !f.has(savingFile) {
		return nil
	}
	p, err := e.findIn(ctx, f)
	if err != nil {
		return err
	}
	return p.endSaving(ctx)
}
