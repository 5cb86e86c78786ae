package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Overlay is a qcow2 file that is to be a disk's top: empty, and to be read
// through to what is the top now.
type Overlay struct {
	Disk string // its ID
	Path string // absolute
}

// top is what a disk writes to now.
type top struct {
	node string
	path string
	size int64
}

// Files are the paths of the files that disks write to now, by the disks' IDs, as
// QEMU says.
func (p *Process) Files(ctx context.Context) (map[string]string, error) {
	tops, _, err := p.tops(ctx)
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	for id, t := range tops {
		files[id] = t.path
	}
	return files, nil
}

// Switch makes disks of a running machine write to overlays, all of them between
// the same two writes of the guest (QMP transaction of blockdev-snapshot). It takes
// the same short time whatever the sizes. Idempotent: a disk that writes to its
// overlay already is left alone. Errors: ErrInvalid if the machine has no disk of an
// ID, ErrBusy while it moves, ErrNotFound, ErrGone, ErrUnresponsive, and *qmp.Error where QEMU refuses.
func (e *Engine) Switch(ctx context.Context, id string, overlays []Overlay) error {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	p, err := e.find(ctx, id)
	if err != nil {
		return err
	}
	// Whoever takes the machine over has opened the files that it has now.
	if e.Moving(id) {
		return fmt.Errorf("%s moves to another process: %w", id, ErrBusy)
	}
	return p.switchTo(ctx, overlays)
}

func (p *Process) switchTo(ctx context.Context, overlays []Overlay) error {
	if err := p.endStreams(ctx); err != nil {
		return err
	}
	tops, nodes, err := p.tops(ctx)
	if err != nil {
		return err
	}
	var actions []map[string]any
	for _, o := range overlays {
		t, found := tops[o.Disk]
		if !found {
			return fmt.Errorf("%w: no disk %q", ErrInvalid, o.Disk)
		}
		if t.path == o.Path {
			continue
		}
		node := overlayNode(o)
		if err := p.addOverlay(ctx, o, t, nodes); err != nil {
			return fmt.Errorf("disk %s: %w", o.Disk, err)
		}
		actions = append(actions, map[string]any{
			"type": "blockdev-snapshot", "data": map[string]any{"node": t.node, "overlay": node},
		})
	}
	if len(actions) > 0 {
		if err := p.executeWith(ctx, "transaction", map[string]any{"actions": actions}, nil); err != nil {
			return err
		}
	}
	return p.recordPaths(overlays)
}

// addOverlay makes QEMU open a file, as large as what it is put on: the disk may
// have grown since the file was made. An earlier attempt may have done it.
func (p *Process) addOverlay(ctx context.Context, o Overlay, t top, nodes map[string]blockSize) error {
	name := overlayNode(o)
	direct := takesDirect(o.Path)
	if _, there := nodes[name+fileSuffix]; !there {
		file := blockNode{
			Driver: "file", NodeName: name + fileSuffix, Filename: o.Path, AIO: "threads", Cache: cache{direct}, Discard: "unmap",
		}
		if err := p.executeWith(ctx, "blockdev-add", file, nil); err != nil {
			return err
		}
	}
	own, there := nodes[name]
	if !there {
		format := blockNode{
			Driver: string(FormatQCOW2), NodeName: name, File: name + fileSuffix, Backing: nodeOrNull{given: true},
			Cache: cache{direct}, Discard: "unmap", DetectZeroes: "unmap",
		}
		if err := p.executeWith(ctx, "blockdev-add", format, nil); err != nil {
			return err
		}
		_, fresh, err := p.tops(ctx)
		if err != nil {
			return err
		}
		own = fresh[name]
	}
	if own.Image.VirtualSize >= t.size {
		return nil
	}
	return p.executeWith(ctx, "block_resize", map[string]any{"node-name": name, "size": t.size}, nil)
}

// fileSuffix is the difference between the names of a format's node and of its
// file's.
const fileSuffix = "-file"

// overlayNode names an overlay's node by its path, so that an attempt that is
// repeated finds it. With its suffix it is as long as QEMU allows.
func overlayNode(o Overlay) string {
	sum := sha256.Sum256([]byte(o.Path))
	return o.Disk + "-" + hex.EncodeToString(sum[:6])
}

// blockDevice is a part of QMP's BlockInfo.
type blockDevice struct {
	QDev     string `json:"qdev"`
	Inserted struct {
		NodeName string `json:"node-name"`
	} `json:"inserted"`
}

// tops asks QEMU what each disk writes to, and gives all nodes too.
func (p *Process) tops(ctx context.Context) (map[string]top, map[string]blockSize, error) {
	var list []blockSize
	if err := p.executeWith(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &list); err != nil {
		return nil, nil, err
	}
	nodes := map[string]blockSize{}
	for _, node := range list {
		nodes[node.NodeName] = node
	}
	var devices []blockDevice
	if err := p.execute(ctx, "query-block", &devices); err != nil {
		return nil, nil, err
	}
	tops := map[string]top{}
	for _, device := range devices {
		node := device.Inserted.NodeName
		id := diskOfDevice(device.QDev)
		if id == "" || node == "" {
			continue
		}
		tops[id] = top{node: node, path: nodes[node+fileSuffix].File, size: nodes[node].Image.VirtualSize}
	}
	return tops, nodes, nil
}

// diskOfDevice is the disk's ID in the name or the path of its device; empty
// where it is none of ours.
func diskOfDevice(qdev string) string {
	for part := range strings.SplitSeq(qdev, "/") {
		if id, ours := strings.CutPrefix(part, "dev-"); ours {
			return id
		}
	}
	return ""
}

// recordPaths writes down what the machine's disks write to: it is what a later
// process of the machine is started with. It lags behind QEMU if the daemon is
// killed in between; Switch is then repeated.
func (p *Process) recordPaths(overlays []Overlay) error {
	files := map[string]string{}
	for _, o := range overlays {
		files[o.Disk] = o.Path
	}
	m := p.Machine()
	var disks, plugged bool
	m.Disks, disks = onto(m.Disks, files)
	m.Plugged, plugged = onto(m.Plugged, files)
	if !disks && !plugged {
		return nil
	}
	return p.remember(m)
}

// onto gives disks with the files that they write to now, and whether any is
// another one than before. An overlay is the only file that a disk can get.
func onto(disks []Disk, files map[string]string) ([]Disk, bool) {
	fresh, changed := slices.Clone(disks), false
	for i, disk := range fresh {
		if path := files[disk.ID]; path != "" && path != disk.Path && !disk.readOnly() {
			fresh[i].Path, fresh[i].Format, changed = path, FormatQCOW2, true
		}
	}
	return fresh, changed
}
