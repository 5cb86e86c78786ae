package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"orlop.dev/kit/durable"
	"orlop.dev/services/vm/internal/qmp"
)

// A disk that only its node reaches moves with its machine: the target has a file
// of its own, and the source writes all of the disk into it (QMP: blockdev-mirror
// to the target's NBD server) while the guest runs, what the guest writes
// included. Memory is sent once the two are the same. At the instant at which the
// guest stands still (pause-before-switchover) the copying ends, and either of
// both has everything; the mark beside the file is made before the guest writes to
// it alone. Until then nothing of the source's disk is given up.
const (
	mirrorPrefix = "mirror-"
	mirrorSuffix = "-mirror"
	exportSocket = "disks.sock"

	jobReady     = "ready"
	jobConcluded = "concluded"
)

// Copy is the file that a disk is to be in on the target: an empty qcow2 as large
// as the disk, that stands on nothing.
type Copy struct {
	Disk string // its ID
	Path string // absolute
	// Mark is a file that is made, durably, before a guest writes to Path alone.
	Mark string
}

// mirror is the part of a job's QMP JobInfo that matters of a copying.
type mirror struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Current int64  `json:"current-progress"`
	Total   int64  `json:"total-progress"`
	Error   string `json:"error"`
}

// with is the machine as the target has it.
func (m Machine) with(copies []Copy) Machine {
	files := map[string]string{}
	for _, c := range copies {
		files[c.Disk] = c.Path
	}
	m.Disks, _ = onto(m.Disks, files)
	m.Plugged, _ = onto(m.Plugged, files)
	return m
}

// export lets the source write into a target's disks. It may be repeated.
func (p *Process) export(ctx context.Context, copies []Copy) error {
	if len(copies) == 0 {
		return nil
	}
	var exports []struct {
		ID string `json:"id"`
	}
	if err := p.execute(ctx, "query-block-exports", &exports); err != nil {
		return err
	}
	if len(exports) == len(copies) {
		return nil
	}
	// A target that was left half-way begins anew.
	if err := p.endExports(ctx); err != nil {
		return err
	}
	// The disks are QEMU's to take over only once the exports are gone.
	if err := p.setCapabilities(ctx, map[string]bool{"late-block-activate": true}); err != nil {
		return err
	}
	address := map[string]any{"type": "unix", "data": map[string]any{"path": exportSocket}}
	if err := p.executeWith(ctx, "nbd-server-start", map[string]any{"addr": address}, nil); err != nil {
		return err
	}
	for _, c := range copies {
		if err := p.executeWith(ctx, "block-export-add", map[string]any{
			"type": "nbd", "id": mirrorPrefix + c.Disk, "node-name": c.Disk, "name": c.Disk, "writable": true,
		}, nil); err != nil {
			return fmt.Errorf("disk %s: %w", c.Disk, err)
		}
	}
	return nil
}

// endExports lets nobody write into the process's disks any more. It may be
// repeated.
func (p *Process) endExports(ctx context.Context) error {
	return ignoreRefusal(p.execute(ctx, "nbd-server-stop", nil))
}

// ignoreRefusal is for what is refused where it has been done.
func ignoreRefusal(err error) error {
	if refusal := new(qmp.Error); errors.As(err, &refusal) {
		return nil
	}
	return err
}

// copyTo begins to write disks into the target's. It may be repeated.
func (p *Process) copyTo(ctx context.Context, peer string, copies []Copy, limits Limits) error {
	begun, err := p.mirrors(ctx)
	if err != nil {
		return err
	}
	tops, nodes, err := p.tops(ctx)
	if err != nil {
		return err
	}
	for _, c := range copies {
		if slices.ContainsFunc(begun, func(m mirror) bool { return m.ID == mirrorPrefix+c.Disk }) {
			continue
		}
		t, found := tops[c.Disk]
		if !found {
			return fmt.Errorf("%w: no disk %q", ErrInvalid, c.Disk)
		}
		target := c.Disk + mirrorSuffix
		if _, there := nodes[target]; !there {
			if err := p.executeWith(ctx, "blockdev-add", map[string]any{
				"driver": "nbd", "node-name": target, "export": c.Disk, "discard": "unmap",
				"server": map[string]any{"type": "unix", "path": "../" + peer + "/" + exportSocket},
			}, nil); err != nil {
				return fmt.Errorf("disk %s: %w", c.Disk, err)
			}
		}
		if err := p.executeWith(ctx, "blockdev-mirror", map[string]any{
			"job-id": mirrorPrefix + c.Disk, "device": t.node, "target": target, "sync": "full", "speed": limits.BytesPerSecond,
			// A guest that writes faster than the target takes it is slowed down.
			"copy-mode": "write-blocking",
			// One that failed tells why.
			"auto-dismiss": false,
		}, nil); err != nil {
			return fmt.Errorf("disk %s: %w", c.Disk, err)
		}
	}
	return nil
}

// mirrors are the copyings out of the process.
func (p *Process) mirrors(ctx context.Context) ([]mirror, error) {
	var all []mirror
	if err := p.execute(ctx, "query-jobs", &all); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(m mirror) bool { return !strings.HasPrefix(m.ID, mirrorPrefix) }), nil
}

// copying is how far all copyings together are.
type copying struct {
	// begun counts them; ready and done report whether all of them write the same
	// to both, or have ended whole.
	begun       int
	ready, done bool
	left, total int64
	// failure says why one of them failed.
	failure string
}

func (p *Process) copying(ctx context.Context) (copying, error) {
	mirrors, err := p.mirrors(ctx)
	c := copying{begun: len(mirrors), ready: true, done: true}
	for _, m := range mirrors {
		c.ready = c.ready && (m.Status == jobReady || m.Status == jobConcluded)
		c.done = c.done && m.Status == jobConcluded
		c.total += m.Total
		c.left += max(0, m.Total-m.Current)
		if m.Status == jobConcluded && m.Error != "" {
			_, disk, _ := strings.Cut(m.ID, mirrorPrefix)
			c.failure = "disk " + disk + " can't be copied: " + m.Error
		}
	}
	return c, err
}

// completeCopies ends the copyings of a guest that stands still, each once it is
// whole.
func (p *Process) completeCopies(ctx context.Context) error {
	mirrors, err := p.mirrors(ctx)
	if err != nil {
		return err
	}
	for _, m := range mirrors {
		if m.Status != jobReady {
			continue
		}
		// Not forced, it ends when both are the same, and leaves the disk where it is.
		if err := ignoreRefusal(p.executeWith(ctx, "block-job-cancel", map[string]any{"device": m.ID}, nil)); err != nil {
			return err
		}
	}
	return nil
}

// endCopies gives all copyings up, and returns when nothing is left of them. It may
// be repeated.
func (p *Process) endCopies(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		mirrors, err := p.mirrors(ctx)
		if err != nil {
			return err
		}
		if len(mirrors) == 0 {
			return p.closeCopies(ctx)
		}
		for _, m := range mirrors {
			command, arguments := "block-job-cancel", map[string]any{"device": m.ID, "force": true}
			if m.Status == jobConcluded {
				command, arguments = "job-dismiss", map[string]any{"id": m.ID}
			}
			if err := ignoreRefusal(p.executeWith(ctx, command, arguments, nil)); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end copying: %w: %w", ErrUnresponsive, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// closeCopies closes the ways to the target's disks.
func (p *Process) closeCopies(ctx context.Context) error {
	_, nodes, err := p.tops(ctx)
	if err != nil {
		return err
	}
	for name := range nodes {
		if !strings.HasSuffix(name, mirrorSuffix) {
			continue
		}
		if err := ignoreRefusal(p.executeWith(ctx, "blockdev-del", map[string]any{"node-name": name}, nil)); err != nil {
			return err
		}
	}
	return nil
}

// advanceWithCopies does what is due for a migration whose target, peer, has files
// that disks are copied into.
func (e *Engine) advanceWithCopies(ctx context.Context, id string, peer record, source *Process, info migrateInfo) (Transfer, error) {
	c, err := source.copying(ctx)
	if err != nil {
		return Transfer{}, err
	}
	switch {
	case c.failure != "":
		if err := source.cancelSending(ctx); err != nil {
			return Transfer{}, err
		}
		return Transfer{State: TransferFailed, Failure: c.failure}, e.fail(ctx, id, peer.Attempt, c.failure)
	case info.idle() && c.begun < len(peer.Copies):
		return e.waiting(ctx, id, peer.Attempt) // killed before all were begun
	case info.idle() && c.ready:
		if err = e.folderOf(id).setMove(move{Attempt: peer.Attempt}); err == nil {
			err = e.sendMemory(ctx, id, source)
		}
	case info.Status == preSwitchover && c.done:
		err = source.goOn(ctx)
	case info.Status == preSwitchover:
		err = source.completeCopies(ctx)
	}
	if info.idle() {
		return Transfer{State: TransferRunning, Copying: true, CopiedBytes: c.total, TotalBytes: c.total, RemainingBytes: c.left}, err
	}
	t := info.transfer()
	t.CopiedBytes = c.total
	return t, err
}

// markCopies says beside each file of a machine that moved that its guest writes to
// it alone from now on.
func markCopies(copies []Copy) error {
	for _, c := range copies {
		if err := durable.WriteFile(c.Mark, nil, 0o600); err != nil {
			return err
		}
	}
	return nil
}
