package qemu

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// recallTimeout bounds the reading of a guest's memory.
const recallTimeout = 5 * time.Minute

// Recall makes a machine as Save has kept it in a folder, standing still: Start
// lets its guest go on. Its files and its tap are those of m, which is otherwise
// the same; its disks must not have been written to since they were put back to
// what lay below the overlays. It may be repeated until the guest goes on.
//
// Errors: ErrInvalid where it is not what was saved, ErrRunning, and those of
// Start.
func (e *Engine) Recall(ctx context.Context, m Machine, dir string) error {
	if err := m.Validate(); err != nil {
		return err
	}
	saved, err := readSaved(dir)
	if err != nil {
		return err
	}
	if saved, err = saved.as(m); err != nil {
		return err
	}
	done, err := e.turns.take(ctx, m.ID)
	if err != nil {
		return err
	}
	defer done()
	f := e.folderOf(m.ID)
	p, err := e.find(ctx, m.ID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	switch r, _ := f.record(); {
	case p == nil || p.isGone():
		p, err = e.spawn(ctx, f, record{Machine: saved, Memory: filepath.Join(dir, memoryFile)})
	case f.has(startedFile) || r.Memory == "":
		return fmt.Errorf("%s: %w", m.ID, ErrRunning)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, recallTimeout)
	defer cancel()
	if err := p.recall(ctx, filepath.Join(dir, memoryFile)); err != nil {
		said := f.lastWords()
		return errors.Join(&StartError{Stderr: said, Err: err}, f.killAndWait(context.WithoutCancel(ctx), m.ID))
	}
	return f.mark(clockFile)
}

func (p *Process) recall(ctx context.Context, memory string) error {
	info, err := p.sending(ctx)
	if err != nil {
		return err
	}
	if info.idle() {
		if err := p.setCapabilities(ctx, map[string]bool{"mapped-ram": true, "events": true}); err != nil {
			return err
		}
		if err := p.executeWith(ctx, "migrate-incoming", map[string]any{"uri": "file:" + memory}, nil); err != nil {
			return err
		}
	}
	if err := p.awaitSaved(ctx); err != nil {
		return err
	}
	return p.setCapabilities(ctx, map[string]bool{"mapped-ram": false})
}

func readSaved(dir string) (Machine, error) {
	var m Machine
	content, err := os.ReadFile(filepath.Join(dir, machineFile))
	if err != nil {
		return m, fmt.Errorf("%w: the saved memory is gone: %w", ErrInvalid, err)
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return m, fmt.Errorf("%w: the saved memory: %w", ErrInvalid, err)
	}
	return m, nil
}

// as is a saved machine with the files and the network of another one that is
// the same.
func (m Machine) as(other Machine) (Machine, error) {
	switch {
	case m.CPU.Count() != other.CPU.Count():
		return m, invalid("%d processors: the saved memory is of %d", other.CPU.Count(), m.CPU.Count())
	case m.MemoryBytes != other.MemoryBytes:
		return m, invalid("%d bytes of memory: the saved memory is of %d", other.MemoryBytes, m.MemoryBytes)
	case m.Firmware != other.Firmware || m.Devices != other.Devices || m.Windows != other.Windows,
		(m.TPMDir == "") != (other.TPMDir == ""):
		return m, invalid("firmware or devices are others than those of the saved memory")
	case m.Network.Mode != other.Network.Mode || m.Network.MAC != other.Network.MAC:
		return m, invalid("MAC address %s: the saved memory is of %s", other.Network.MAC, m.Network.MAC)
	case (m.SeedPath == "") != (other.SeedPath == ""):
		return m, invalid("the saved memory is of a machine that was set up in another way")
	}
	var errDisks, errPlugged error
	m.Disks, errDisks = inPlaceOf(m.Disks, other.Disks)
	m.Plugged, errPlugged = inPlaceOf(m.Plugged, other.Plugged)
	m.ID, m.Name, m.CPU.MilliCPU = other.ID, other.Name, other.CPU.MilliCPU
	m.VariablesPath, m.TPMDir, m.SeedPath, m.Network = other.VariablesPath, other.TPMDir, other.SeedPath, other.Network
	return m, errors.Join(errDisks, errPlugged)
}

// inPlaceOf are saved disks with the files of others, which are the same by ID.
func inPlaceOf(saved, others []Disk) ([]Disk, error) {
	if len(saved) != len(others) {
		return nil, invalid("%d disks: the saved memory is of %d", len(others), len(saved))
	}
	disks := slices.Clone(saved)
	for i, disk := range disks {
		at := indexOf(others, disk.ID)
		if at < 0 {
			return nil, invalid("disk %s of the saved memory is not there", disk.Label)
		}
		disks[i].Path, disks[i].Format = others[at].Path, others[at].Format
		if disk.readOnly() {
			continue
		}
		if written, err := writtenTo(others[at]); err != nil || written {
			return nil, errors.Join(err, invalid("disk %s was written to after it was put back", disk.Label))
		}
	}
	return disks, nil
}

// Places in qcow2's header, by QEMU's docs/interop/qcow2.
const (
	qcow2TableSize   = 36
	qcow2TableOffset = 40
)

// writtenTo reports whether anything was ever written to a disk's own file: an
// empty overlay has an empty first table.
func writtenTo(d Disk) (bool, error) {
	if d.Format != FormatQCOW2 {
		return true, nil
	}
	file, err := os.Open(d.Path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	header := make([]byte, qcow2HeaderSize)
	if _, err := file.ReadAt(header, 0); err != nil {
		return false, err
	}
	table := make([]byte, 8*int64(binary.BigEndian.Uint32(header[qcow2TableSize:])))
	_, err = file.ReadAt(table, int64(binary.BigEndian.Uint64(header[qcow2TableOffset:])))
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return slices.ContainsFunc(table, func(b byte) bool { return b != 0 }), nil
}
