package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"
)

// startTimeout bounds the time from launching QEMU to its first answer:
// tenths of a second on an idle host, many seconds on a crowded one.
const startTimeout = 60 * time.Second

// Start makes the machine run, and returns when its guest has begun to. A
// machine that already runs is left as it is and returned, even if m differs
// (Process.Machine tells) and even if its guest has ended (Process.State
// tells). A process left by a start that was cut short is finished, or killed
// and started again if it doesn't answer. Start may be repeated after any
// failure, also one of the daemon.
//
// Errors: ErrInvalid, ErrUnsafe, ErrLacking and *StartError; ErrUnresponsive for a guest
// that ran and whose process doesn't answer now: on a crowded host that passes,
// and Kill is the caller's choice. Others are the host's.
func (e *Engine) Start(ctx context.Context, m Machine) (*Process, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	done, err := e.turns.take(ctx, m.ID)
	if err != nil {
		return nil, err
	}
	defer done()
	f := e.folderOf(m.ID)
	p, err := e.find(ctx, m.ID)
	if errors.Is(err, ErrUnresponsive) && !f.has(startedFile) {
		p, err = nil, f.killAndWait(ctx, m.ID)
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	if p != nil && !p.isGone() {
		// It is wanted again: a Kill that was cut short is off.
		return p, errors.Join(f.remove(endingFile), e.limit(f, p.machine), p.letGo(ctx))
	}
	return e.start(ctx, m)
}

// start makes a new process, and lets its guest go.
func (e *Engine) start(ctx context.Context, m Machine) (*Process, error) {
	if m.Type == "" {
		m.Type = e.host.MachineType
	}
	// What was to take the machine over has nothing to take over any more.
	if err := e.discard(ctx, e.peerOf(m.ID), m.ID); err != nil {
		return nil, err
	}
	p, err := e.spawn(ctx, e.folderOf(m.ID), record{Machine: m})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return p, p.letGo(ctx)
}

// spawn makes a new process, which waits for memory if it is to get any. The
// order is what makes a crash between any two steps harmless: the record comes
// before the process, and the guest runs only once the process was seen to be
// ours.
func (e *Engine) spawn(ctx context.Context, f folder, r record) (*Process, error) {
	m := r.Machine
	if err := e.host.prepareFirmware(m); err != nil {
		return nil, err
	}
	chains, err := e.resolve(m)
	if err != nil {
		return nil, err
	}
	if r.BootID, err = bootID(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		return nil, err
	}
	lock, err := f.acquire()
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, fmt.Errorf("%s: %w", f.name(), ErrRunning)
	}
	// Cleared first: what tells that an earlier guest ran must not speak for this
	// one.
	if err := f.clear(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if err := f.write(recordFile, r); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	exited, err := e.launch(f, lock, r, chains)
	if errors.Is(err, ErrLacking) {
		return nil, err
	}
	if err != nil {
		return nil, &StartError{Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	p, err := e.await(ctx, f, m, exited)
	if err == nil {
		err = e.limit(f, m)
	}
	if err != nil {
		// Whatever is half there must not hold the disks.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancel()
		return nil, errors.Join(err, f.killAndWait(cleanup, m.ID))
	}
	return p, nil
}

// limit keeps the machine's processes within their processor time, from before
// its guest runs.
func (e *Engine) limit(f folder, m Machine) error {
	if e.limits == nil || m.CPU.MilliCPU == 0 {
		return nil
	}
	pids, err := f.pids(m.ID)
	for _, pid := range pids {
		err = errors.Join(err, e.limits.Limit(m.ID, pid, m.CPU.MilliCPU))
	}
	return err
}

// unlimit forgets a machine's limit. A process lets go of its lock shortly before
// it leaves its group.
func (e *Engine) unlimit(ctx context.Context, id string) error {
	if e.limits == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := e.limits.Remove(id)
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func (e *Engine) resolve(m Machine) (Chains, error) {
	chains := Chains{}
	for _, d := range slices.Concat(m.Disks, m.Plugged) {
		layers, err := Layers(d.Path, d.Format, e.diskRoots)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.ID, err)
		}
		chains[d.ID] = layers
	}
	if m.SeedPath != "" {
		layers, err := Layers(m.SeedPath, FormatRaw, nil)
		if err != nil {
			return nil, fmt.Errorf("seed: %w", err)
		}
		chains[seedID] = layers
	}
	return chains, nil
}
