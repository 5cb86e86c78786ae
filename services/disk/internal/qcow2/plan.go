// Package qcow2 plans a qcow2 file from what is allocated in a disk: every byte
// of it can be told at once, in any order, and twice the same.
//
// It owns the layout of that file, and reads a header's size back. It must not know where the disk's content
// comes from or where the file goes.
package qcow2

import (
	"errors"
	"fmt"
	"io"
	"sort"
)

// ClusterBytes is the unit in which a disk is allocated.
const ClusterBytes = 1 << clusterBits

// Backing is what shows through where a file has no clusters.
type Backing struct {
	// Name of the file; a relative one begins in the folder of the file above it.
	Name string
	// Format of the file, such as raw.
	Format string
}

// Run is clusters in a row that the file has.
type Run struct {
	// First is the index of the first one in the disk.
	First, Count int64
	// Zero clusters read as zeros, whatever is below, and take no room.
	Zero bool
}

// ErrPlan is a plan that can't be: runs out of order or past the end, a name
// that is too long.
var ErrPlan = errors.New("no qcow2 file can be planned")

// Plan is a file that is to be.
type Plan struct {
	virtualBytes int64
	backing      *Backing
	runs         []Run
	before       []int64 // data clusters before each run
	tables       []int64 // indices of the L2 tables that there are
	at           layout
}

// New plans a file for a disk of virtualBytes. The runs are in order and don't
// overlap. Where there is no run, backing shows through, or zeros without one.
func New(virtualBytes int64, runs []Run, backing *Backing) (*Plan, error) {
	if virtualBytes <= 0 {
		return nil, fmt.Errorf("%w: a disk of %d bytes", ErrPlan, virtualBytes)
	}
	if backing != nil && (len(backing.Name) > maxNameBytes || len(backing.Format) > maxNameBytes) {
		return nil, fmt.Errorf("%w: the backing file's name has %d bytes", ErrPlan, len(backing.Name))
	}
	p := &Plan{virtualBytes: virtualBytes, backing: backing, runs: runs, before: make([]int64, len(runs))}
	var next, data int64
	for i, run := range runs {
		if run.Count <= 0 || run.First < next || run.First+run.Count > divide(virtualBytes, ClusterBytes) {
			return nil, fmt.Errorf("%w: run %d is %+v", ErrPlan, i, run)
		}
		next = run.First + run.Count
		p.before[i] = data
		if !run.Zero {
			data += run.Count
		}
		p.addTables(run)
	}
	p.at = place(virtualBytes, int64(len(p.tables)), data)
	return p, nil
}

func (p *Plan) addTables(run Run) {
	for t := run.First / l2Entries; t <= (run.First+run.Count-1)/l2Entries; t++ {
		if len(p.tables) == 0 || p.tables[len(p.tables)-1] < t {
			p.tables = append(p.tables, t)
		}
	}
}

// Bytes is the size of the file.
func (p *Plan) Bytes() int64 { return p.at.end << clusterBits }

// runAt is the index of the first run that ends behind a cluster.
func (p *Plan) runAt(cluster int64) int {
	return sort.Search(len(p.runs), func(i int) bool { return p.runs[i].First+p.runs[i].Count > cluster })
}

// tableFrom is the index of the first L2 table at or behind that of the disk.
func (p *Plan) tableFrom(table int64) int {
	return sort.Search(len(p.tables), func(i int) bool { return p.tables[i] >= table })
}

// Reader reads the file, its data from the disk. It may be used concurrently if
// the disk may.
func (p *Plan) Reader(disk io.ReaderAt) io.ReaderAt { return &reader{plan: p, disk: disk} }

type reader struct {
	plan *Plan
	disk io.ReaderAt
}

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(b []byte, offset int64) (int, error) {
	if offset < 0 {
		return 0, fmt.Errorf("qcow2: read at %d", offset)
	}
	done := 0
	for done < len(b) {
		at := offset + int64(done)
		if at >= r.plan.Bytes() {
			return done, io.EOF
		}
		var n int
		var err error
		if at>>clusterBits < r.plan.at.dataAt {
			n = r.readTable(b[done:], at)
		} else {
			n, err = r.readData(b[done:], at)
		}
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// readTable reads from one of the clusters before the data.
func (r *reader) readTable(b []byte, offset int64) int {
	var cluster [ClusterBytes]byte
	p, index := r.plan, offset>>clusterBits
	switch {
	case index < p.at.l1At:
		p.header(cluster[:])
	case index < p.at.refTableAt:
		p.l1(index-p.at.l1At, cluster[:])
	case index < p.at.refBlocksAt:
		p.refTable(index-p.at.refTableAt, cluster[:])
	case index < p.at.l2At:
		p.refBlock(index-p.at.refBlocksAt, cluster[:])
	default:
		p.l2(index-p.at.l2At, cluster[:])
	}
	return copy(b, cluster[offset%ClusterBytes:])
}

// readData reads up to the end of the run that the offset is in.
func (r *reader) readData(b []byte, offset int64) (int, error) {
	p := r.plan
	index := offset>>clusterBits - p.at.dataAt
	// The last run with data that doesn't begin behind the cluster.
	i := sort.Search(len(p.runs), func(i int) bool { return p.before[i] > index }) - 1
	for p.runs[i].Zero {
		i--
	}
	run := p.runs[i]
	from := (run.First+index-p.before[i])<<clusterBits + offset%ClusterBytes
	n := min(int64(len(b)), (run.First+run.Count)<<clusterBits-from)
	b = b[:n]
	// The disk may end within its last cluster.
	inside := min(n, max(0, p.virtualBytes-from))
	clear(b[inside:])
	got, err := r.disk.ReadAt(b[:inside], from)
	if int64(got) == inside {
		return int(n), nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return got, err
}
