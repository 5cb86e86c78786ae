package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"orlop.dev/services/vm/internal/qmp"
)

// Each snapshot of a running machine's disk leaves it one more file to look
// through. Where there are many, what lies between the disk's own file and a lower
// one is copied into the former while the guest runs (QMP block-stream); the files
// themselves stay for those who need them.
const (
	// deepFiles is how many files a disk may have before that.
	deepFiles = 16
	// quietFor is how long the last snapshot must be ago for all of them to become
	// one: more may follow. Until then at least quickFiles do whose data is at most
	// quickBytes, which takes less time than passes between two snapshots.
	quietFor   = 30 * time.Second
	quickFiles = 8
	quickBytes = 64 << 20
	// streamRate bounds the copying, in bytes a second, so that the guest has most
	// of the storage.
	streamRate = 128 << 20

	streamPrefix = "shorten-"
	// jobPending is a job that has done all but its end (QMP JobStatus).
	jobPending = "pending"
)

// job is a part of QMP's JobInfo.
type job struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

// Copied reports whether an event says that a disk's files are copied: Shorten ends
// it then.
func Copied(event Event) bool {
	var j job
	return event.Name == EventJob && json.Unmarshal(event.Data, &j) == nil &&
		j.Status == jobPending && strings.HasPrefix(j.ID, streamPrefix)
}

// Shorten does what is due for the disks of a running machine that have many
// files: it begins to copy, ends what is copied, and closes what nothing stands on
// any more. It returns at once, and is repeated now and then; all that it has to
// know is in QEMU. Whatever else is done with the machine's disks ends the
// copying, which begins again later. A machine that moves or is saved is left
// alone.
func (e *Engine) Shorten(ctx context.Context, id string) error {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	p, err := e.settled(ctx, id)
	if errors.Is(err, ErrMoving) || errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if state, err := p.State(ctx); err != nil || state != StateRunning {
		return err
	}
	jobs, err := p.streams(ctx)
	if err != nil {
		return err
	}
	m := p.Machine()
	var failed error
	for _, d := range slices.Concat(m.Disks, m.Plugged) {
		if d.readOnly() || d.Format != FormatQCOW2 {
			continue
		}
		if err := p.shorten(ctx, d, jobs[streamPrefix+d.ID], e.diskRoots); err != nil {
			failed = errors.Join(failed, fmt.Errorf("disk %s: %w", d.ID, err))
		}
	}
	return failed
}

// streams are the states of the copyings, by their jobs' IDs.
func (p *Process) streams(ctx context.Context) (map[string]string, error) {
	var all []job
	if err := p.execute(ctx, "query-jobs", &all); err != nil {
		return nil, err
	}
	states := map[string]string{}
	for _, one := range all {
		if strings.HasPrefix(one.ID, streamPrefix) {
			states[one.ID] = one.Status
		}
	}
	return states, nil
}

func (p *Process) shorten(ctx context.Context, d Disk, state string, roots []string) error {
	switch state {
	case "":
		return p.beginStream(ctx, d, roots)
	case jobPending:
		return p.endStream(ctx, d)
	}
	return nil
}

// beginStream begins to copy, if the disk has many files and there is room.
func (p *Process) beginStream(ctx context.Context, d Disk, roots []string) error {
	tops, nodes, err := p.tops(ctx)
	if err != nil {
		return err
	}
	t, found := tops[d.ID]
	if !found {
		return nil
	}
	layers, err := Layers(t.path, FormatQCOW2, roots)
	if err != nil {
		return err
	}
	if err := p.closeStrays(ctx, d, layers, nodes); err != nil {
		return err
	}
	lower := lowerEnd(layers)
	if len(layers) <= deepFiles || lower == 0 || !hasRoom(layers[1:lower]) {
		return nil
	}
	base := nodeWith(d, layers[lower].Path, nodes)
	if base == "" {
		return fmt.Errorf("no node has %s", layers[lower].Path)
	}
	return p.executeWith(ctx, "block-stream", map[string]any{
		"job-id": streamPrefix + d.ID, "device": t.node, "base-node": base, "speed": streamRate,
		// The header is changed only after what was copied is on the storage.
		"auto-finalize": false,
	}, nil)
}

// lowerEnd is the place of the file that a disk's own is to stand on; 0 where
// nothing is to be done now.
func lowerEnd(layers []Layer) int {
	if len(layers) > 1 && settledDown(layers) {
		return len(layers) - 1
	}
	end := 0
	for taken, i := int64(0), 1; i < len(layers)-1; i++ {
		if taken += bytesOf(layers[i]); taken > quickBytes {
			break
		}
		end = i + 1
	}
	if end < quickFiles {
		return 0
	}
	return end
}

// endStream makes the lower file the one that the disk's own stands on. QEMU
// does not write its tables before it does that: killed in between, a disk would
// have neither the copy nor what was copied.
func (p *Process) endStream(ctx context.Context, d Disk) error {
	tops, _, err := p.tops(ctx)
	if err != nil {
		return err
	}
	var said string
	flush := map[string]any{"command-line": fmt.Sprintf("qemu-io %s flush", tops[d.ID].node)}
	if err := p.executeWith(ctx, "human-monitor-command", flush, &said); err != nil || said != "" {
		return errors.Join(err, fmt.Errorf("flush: QEMU says %q", said))
	}
	return p.executeWith(ctx, "job-finalize", map[string]any{"id": streamPrefix + d.ID}, nil)
}

// endStreams ends all copying, and returns when there is none: what has a disk's
// files in work lets nobody else change them.
func (p *Process) endStreams(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for asked := false; ; asked = true {
		jobs, err := p.streams(ctx)
		if err != nil || len(jobs) == 0 {
			return err
		}
		for id := range jobs {
			if asked {
				break
			}
			err := p.executeWith(ctx, "block-job-cancel", map[string]any{"device": id, "force": true}, nil)
			var refusal *qmp.Error
			if err != nil && !errors.As(err, &refusal) { // refused is one that has just ended
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

// closeStrays closes files of a disk that it does not stand on any more: as long
// as they are open, their space does not come back.
func (p *Process) closeStrays(ctx context.Context, d Disk, layers []Layer, nodes map[string]blockSize) error {
	for name, node := range nodes {
		format, isFile := strings.CutSuffix(name, fileSuffix)
		if !isFile || !ofDisk(d, name) || slices.ContainsFunc(layers, func(l Layer) bool { return l.Path == node.File }) {
			continue
		}
		for _, name := range []string{format, name} {
			err := p.executeWith(ctx, "blockdev-del", map[string]any{"node-name": name}, nil)
			var refusal *qmp.Error
			if err != nil && !errors.As(err, &refusal) { // refused is one that another stands on: next time
				return err
			}
		}
	}
	return nil
}

// ofDisk reports whether a node is one of a disk's.
func ofDisk(d Disk, node string) bool {
	return node == d.ID || strings.HasPrefix(node, d.ID+"-")
}

// nodeWith is the node of a disk that reads a file.
func nodeWith(d Disk, path string, nodes map[string]blockSize) string {
	for name, node := range nodes {
		if format, isFile := strings.CutSuffix(name, fileSuffix); isFile && node.File == path && ofDisk(d, name) {
			return format
		}
	}
	return ""
}

// settledDown reports whether the last snapshot is some time ago: then the file
// below the disk's own was written to for the last time.
func settledDown(layers []Layer) bool {
	info, err := os.Stat(layers[1].Path)
	return err == nil && time.Since(info.ModTime()) > quietFor
}

// hasRoom reports whether what is copied takes no more than half of the room that
// there is.
func hasRoom(copied []Layer) bool {
	var taken int64
	for _, layer := range copied {
		taken += bytesOf(layer)
	}
	var room unix.Statfs_t
	return len(copied) > 0 && unix.Statfs(copied[0].Path, &room) == nil && taken < int64(room.Bavail)*room.Bsize/2
}

// bytesOf is what a file takes on the storage; nothing if it is gone.
func bytesOf(layer Layer) int64 {
	const blockBytes = 512
	var stat unix.Stat_t
	if unix.Stat(layer.Path, &stat) != nil {
		return 0
	}
	return stat.Blocks * blockBytes
}
