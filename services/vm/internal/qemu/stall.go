package qemu

import (
	"context"

	"golang.org/x/sys/unix"
)

// roomToGoOn is how much must be free where a machine's disks are before a guest
// goes on that stands still for want of space.
const roomToGoOn = 16 << 20

// Stalled is a disk to which a write failed, which stopped the guest.
type Stalled struct {
	Label string // as in Disk
	// NoSpace is a write that failed for want of space.
	NoSpace bool
}

// Stalled names the disks for which a guest stands still (StateIOError), by QMP's
// query-block. QEMU remembers each that ever failed.
func (p *Process) Stalled(ctx context.Context) ([]Stalled, error) {
	var devices []struct {
		QDev     string `json:"qdev"`
		IOStatus string `json:"io-status"`
	}
	if err := p.execute(ctx, "query-block", &devices); err != nil {
		return nil, err
	}
	failed := map[string]string{}
	for _, device := range devices {
		if device.IOStatus != "" && device.IOStatus != "ok" {
			failed[diskOfDevice(device.QDev)] = device.IOStatus
		}
	}
	m := p.Machine()
	var stalled []Stalled
	for _, disks := range [][]Disk{m.Disks, m.Plugged} {
		for _, d := range disks {
			if status := failed[d.ID]; status != "" {
				stalled = append(stalled, Stalled{Label: d.Label, NoSpace: status == "nospace"})
			}
		}
	}
	return stalled, nil
}

// GoOn lets a guest go on that stands still because a write failed, if there is
// room now where its disks are: QEMU tries the write again. Others are left alone.
func (e *Engine) GoOn(ctx context.Context, id string) error {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	p, err := e.find(ctx, id)
	if err != nil {
		return err
	}
	if state, err := p.State(ctx); err != nil || state != StateIOError {
		return err
	}
	files, err := p.Files(ctx)
	if err != nil {
		return err
	}
	for _, path := range files {
		var room unix.Statfs_t
		if err := unix.Statfs(path, &room); err != nil || int64(room.Bavail)*room.Bsize < roomToGoOn {
			return err
		}
	}
	if err := p.folder().mark(clockFile); err != nil {
		return err
	}
	return p.Resume(ctx)
}
