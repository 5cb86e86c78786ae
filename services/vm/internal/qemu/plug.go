package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"orlop.dev/services/vm/internal/qmp"
)

// Disks that are plugged in have targets of their own, apart for disks and
// CD-ROMs: the first free one keeps Linux's names in the order of targets, so
// that a disk has the same name after a restart.
const (
	firstDiskSlot  = 64
	firstCDROMSlot = 128
	slotsOfMedium  = 64
)

const (
	// unplugTimeout bounds the wait for a device to go after QEMU has told the
	// guest, and has finished what was under way on it.
	unplugTimeout = 10 * time.Second
	// peripherals is where QEMU's object tree has the devices with an ID.
	peripherals = "/machine/peripheral"
)

var (
	// ErrBusy is a device that did not go in time. It may still; Unplug again.
	ErrBusy = errors.New("the device is still in use")
	// ErrMoving is a machine that is being migrated: both sides must have the same
	// devices until that is over.
	ErrMoving = errors.New("the machine is being migrated")
)

func firstSlot(medium Medium) int {
	if medium == MediumCDROM {
		return firstCDROMSlot
	}
	return firstDiskSlot
}

// NextSlot is the first one that none of the plugged disks has.
func NextSlot(plugged []Disk, medium Medium) int {
	slot := firstSlot(medium)
	for slices.ContainsFunc(plugged, func(d Disk) bool { return d.Slot == slot }) {
		slot++
	}
	return slot
}

// Plug gives a running machine one more disk, which the guest sees at once. The
// disk's Slot is chosen here. Idempotent by the disk's ID, and may be repeated
// after any failure, also one of the daemon: what is there already is found in
// QEMU.
//
// Errors: ErrInvalid (also for a machine of emulated devices), ErrUnsafe,
// ErrNotFound, ErrGone, ErrMoving, ErrUnresponsive, and *qmp.Error where QEMU
// refuses.
func (e *Engine) Plug(ctx context.Context, id string, d Disk) error {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	p, err := e.settled(ctx, id)
	if err != nil {
		return err
	}
	m := p.Machine()
	if at := indexOf(m.Plugged, d.ID); at >= 0 {
		d.Slot = m.Plugged[at].Slot
		m.Plugged = without(m.Plugged, d.ID)
	} else {
		d.Slot = NextSlot(m.Plugged, d.Medium)
	}
	m.Plugged = append(slices.Clone(m.Plugged), d)
	if err := m.Validate(); err != nil {
		return err
	}
	layers, err := Layers(d.Path, d.Format, e.diskRoots)
	if err != nil {
		return fmt.Errorf("disk %s: %w", d.ID, err)
	}
	// The record comes first: it is what Unplug and the next daemon look for.
	if err := p.remember(m); err != nil {
		return err
	}
	return p.plug(ctx, d, layers)
}

func (p *Process) plug(ctx context.Context, d Disk, layers []Layer) error {
	present, err := p.devices(ctx)
	if err != nil || present[deviceID(d.ID)] {
		return err
	}
	nodes, err := p.nodes(ctx)
	if err != nil {
		return err
	}
	for _, node := range chainOf(d, layers) {
		if slices.Contains(nodes, node.NodeName) {
			continue
		}
		if err := p.executeWith(ctx, "blockdev-add", node, nil); err != nil {
			return err
		}
	}
	return p.executeWith(ctx, "device_add", scsiDevice(d, d.Slot).arguments(), nil)
}

// Unplug takes a disk that was plugged in away from a running machine, and
// returns when neither the guest nor QEMU has it any more. A disk that isn't
// there is no error. Errors: ErrBusy, and those of Plug.
func (e *Engine) Unplug(ctx context.Context, id, disk string) error {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	p, err := e.settled(ctx, id)
	if err != nil {
		return err
	}
	m := p.Machine()
	if indexOf(m.Plugged, disk) < 0 {
		return nil
	}
	if err := p.endStreams(ctx); err != nil {
		return err
	}
	if err := p.unplugDevice(ctx, disk); err != nil {
		return err
	}
	if err := p.closeNodes(ctx, disk); err != nil {
		return err
	}
	m.Plugged = without(m.Plugged, disk)
	return p.remember(m)
}

// settled is the process of a machine that stays where it is.
func (e *Engine) settled(ctx context.Context, id string) (*Process, error) {
	if e.Moving(id) {
		return nil, fmt.Errorf("%s: %w", id, ErrMoving)
	}
	if e.folderOf(id).has(savingFile) {
		return nil, fmt.Errorf("%s is being saved: %w", id, ErrMoving)
	}
	return e.find(ctx, id)
}

// unplugDevice has the guest let go of a device.
func (p *Process) unplugDevice(ctx context.Context, disk string) error {
	ctx, cancel := context.WithTimeout(ctx, unplugTimeout)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for asked := false; ; asked = true {
		present, err := p.devices(ctx)
		if err != nil {
			return err
		}
		if !present[deviceID(disk)] {
			return nil
		}
		if !asked {
			err := p.executeWith(ctx, "device_del", map[string]any{"id": deviceID(disk)}, nil)
			var refusal *qmp.Error
			// Refused is also what was asked for before and is under way.
			if err != nil && !errors.As(err, &refusal) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", disk, ErrBusy)
		case <-tick.C:
		}
	}
}

// closeNodes closes a disk's files, from the top down. What came between them
// since (a snapshot's new top) goes as well: its name begins alike. QEMU lets go
// of what stood below a closed node a moment later.
func (p *Process) closeNodes(ctx context.Context, disk string) error {
	ctx, cancel := context.WithTimeout(ctx, unplugTimeout)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		nodes, err := p.nodes(ctx)
		if err != nil {
			return err
		}
		nodes = slices.DeleteFunc(nodes, func(name string) bool { return name != disk && !strings.HasPrefix(name, disk+"-") })
		if len(nodes) == 0 {
			return nil
		}
		for _, name := range nodes {
			err := p.executeWith(ctx, "blockdev-del", map[string]any{"node-name": name}, nil)
			var refusal *qmp.Error
			// One that stands below another is refused, and closed in the next round.
			if err != nil && !errors.As(err, &refusal) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", disk, ErrBusy)
		case <-tick.C:
		}
	}
}

// Present is the machine as it is at this moment: with the files that its disks
// write to, with the plugged disks that QEMU has, and no others. Args of it make a process that a migration of this one
// can go to.
func (p *Process) Present(ctx context.Context) (Machine, error) {
	m := p.Machine()
	files, err := p.Files(ctx)
	if err != nil {
		return m, err
	}
	m.Disks, _ = onto(m.Disks, files)
	m.Plugged, _ = onto(m.Plugged, files)
	present, err := p.devices(ctx)
	if err != nil {
		return m, err
	}
	m.Plugged = slices.DeleteFunc(slices.Clone(m.Plugged), func(d Disk) bool { return !present[deviceID(d.ID)] })
	slices.SortFunc(m.Plugged, func(a, b Disk) int { return a.Slot - b.Slot })
	return m, nil
}

// devices are the IDs of the devices that QEMU has.
func (p *Process) devices(ctx context.Context) (map[string]bool, error) {
	var found []struct{ Name string }
	if err := p.executeWith(ctx, "qom-list", map[string]any{"path": peripherals}, &found); err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, one := range found {
		names[one.Name] = true
	}
	return names, nil
}

// nodes are the names of the block nodes that QEMU has.
func (p *Process) nodes(ctx context.Context) ([]string, error) {
	var found []blockSize
	if err := p.executeWith(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &found); err != nil {
		return nil, err
	}
	var names []string
	for _, one := range found {
		names = append(names, one.NodeName)
	}
	return names, nil
}

// remember writes down what the machine is now, for this daemon and the next.
func (p *Process) remember(m Machine) error {
	r, err := p.folder().record()
	if err != nil {
		return err
	}
	r.Machine = m
	if err := p.folder().write(recordFile, r); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disks, p.plugged = m.Disks, m.Plugged
	return nil
}

func indexOf(disks []Disk, id string) int {
	return slices.IndexFunc(disks, func(d Disk) bool { return d.ID == id })
}

func without(disks []Disk, id string) []Disk {
	return slices.DeleteFunc(slices.Clone(disks), func(d Disk) bool { return d.ID == id })
}
