package diskimage

import "encoding/binary"

// Fields of L1, L2 and reference table entries.
const (
	qcow2OffsetMask   = 0x00fffffffffffe00
	qcow2Copied       = 1 << 63
	qcow2Compressed   = 1 << 62
	qcow2ZeroCluster  = 1 << 0
	qcow2RefReserved  = 0x1ff
	qcow2L1Reserved   = ^uint64(qcow2OffsetMask | qcow2Copied)
	qcow2L2Reserved   = ^uint64(qcow2OffsetMask | qcow2Copied | qcow2ZeroCluster)
	compressedSectors = 512
)

func (h *qcow2) aligned(offset uint64) bool { return offset%h.clusterBytes() == 0 }

// checkRefcounts follows the reference count table to its blocks. The counts
// themselves are not read: nobody writes to an image.
func checkRefcounts(f *file, h *qcow2) error {
	bytes := h.refClusters << h.clusterBits
	if bytes == 0 || bytes > qcow2MaxRefBytes {
		return corrupt("the image claims a reference count table of %d bytes", bytes)
	}
	if h.refOffset == 0 || !h.aligned(h.refOffset) {
		return corrupt("the reference count table is at the impossible offset %d", h.refOffset)
	}
	t := table{name: "reference count table", offset: h.refOffset, entries: bytes / 8, width: 8}
	return f.scan(t, func(_ uint64, b []byte) error {
		entry := binary.BigEndian.Uint64(b)
		if entry == 0 {
			return nil
		}
		if entry&qcow2RefReserved != 0 || !h.aligned(entry) {
			return corrupt("a reference count block is at the impossible offset %d", entry)
		}
		return f.within("reference count block", entry, h.clusterBytes())
	})
}

// clusterCheck follows L1 and L2 tables to every cluster of the disk.
type clusterCheck struct {
	f      *file
	h      *qcow2
	tables budget
	data   budget
}

func checkClusters(f *file, h *qcow2) error {
	need := ceilDiv(ceilDiv(h.size, h.clusterBytes()), h.l2Entries())
	if h.l1Entries < need {
		return corrupt("the L1 table has %d entries, the disk needs %d", h.l1Entries, need)
	}
	if h.l1Entries > qcow2MaxL1Bytes/8 {
		return corrupt("the image claims an L1 table of %d entries", h.l1Entries)
	}
	if h.l1Offset == 0 || !h.aligned(h.l1Offset) {
		return corrupt("the L1 table is at the impossible offset %d", h.l1Offset)
	}
	c := &clusterCheck{
		f: f, h: h,
		tables: budget{name: "L2 tables", left: f.size},
		data:   budget{name: "data clusters", left: ceilDiv(f.size, h.clusterBytes()) * h.clusterBytes()},
	}
	return f.scan(table{name: "L1 table", offset: h.l1Offset, entries: h.l1Entries, width: 8}, c.l1)
}

func (c *clusterCheck) l1(index uint64, b []byte) error {
	entry := binary.BigEndian.Uint64(b)
	if entry == 0 {
		return nil
	}
	offset := entry & qcow2OffsetMask
	if entry&qcow2L1Reserved != 0 || offset == 0 || !c.h.aligned(offset) {
		return corrupt("L1 entry %d has the impossible value %#x", index, entry)
	}
	if err := c.tables.spend(c.h.clusterBytes()); err != nil {
		return err
	}
	t := table{name: "L2 table", offset: offset, entries: c.h.l2Entries(), width: c.h.l2Width()}
	return c.f.scan(t, func(i uint64, b []byte) error {
		return c.l2(index*t.entries+i, b)
	})
}

// l2 checks the entry of one cluster of the disk.
func (c *clusterCheck) l2(cluster uint64, b []byte) error {
	entry := binary.BigEndian.Uint64(b)
	if c.h.extendedL2() {
		if err := checkSubclusters(entry, binary.BigEndian.Uint64(b[8:])); err != nil {
			return err
		}
	}
	if entry&qcow2Compressed != 0 {
		return c.compressed(cluster, entry)
	}
	reserved := qcow2L2Reserved
	if c.h.version == 2 || c.h.extendedL2() {
		reserved |= qcow2ZeroCluster
	}
	offset := entry & qcow2OffsetMask
	if entry&reserved != 0 || !c.h.aligned(offset) {
		return corrupt("the L2 entry of cluster %d has the impossible value %#x", cluster, entry)
	}
	if offset == 0 {
		return nil
	}
	if err := c.data.spend(c.h.clusterBytes()); err != nil {
		return err
	}
	return c.f.within("data cluster", offset, c.visible(cluster))
}

// visible is how many bytes of a cluster the disk has: all but for its last.
func (c *clusterCheck) visible(cluster uint64) uint64 {
	start := cluster << c.h.clusterBits
	if start >= c.h.size {
		return 0
	}
	return min(c.h.clusterBytes(), c.h.size-start)
}

// compressed checks a cluster whose data starts at any byte and is counted in
// sectors. The last sector may be cut off: writers don't pad it.
func (c *clusterCheck) compressed(cluster, entry uint64) error {
	if entry&qcow2Copied != 0 {
		return corrupt("compressed cluster %d is marked as written in place", cluster)
	}
	offsetBits := 62 - (c.h.clusterBits - 8)
	offset := entry & (1<<offsetBits - 1)
	more := entry & (qcow2Compressed - 1) >> offsetBits
	if offset < c.h.headerBytes {
		return corrupt("compressed cluster %d lies in the header", cluster)
	}
	if err := c.f.within("compressed cluster", offset, 1); err != nil {
		return err
	}
	end := offset/compressedSectors + more + 1
	if end > ceilDiv(c.f.size, compressedSectors) {
		return c.f.within("compressed cluster", offset, end*compressedSectors-offset)
	}
	return nil
}

// checkSubclusters holds the bitmap of an extended entry (low half: allocated,
// high half: zero) against the entry.
func checkSubclusters(entry, bitmap uint64) error {
	allocated, zero := uint32(bitmap), uint32(bitmap>>32)
	switch {
	case entry&qcow2Compressed != 0 && bitmap != 0:
		return corrupt("a compressed cluster of the image has subclusters")
	case allocated&zero != 0:
		return corrupt("a subcluster of the image is allocated and zero at once")
	case entry&qcow2Compressed == 0 && entry&qcow2OffsetMask == 0 && allocated != 0:
		return corrupt("a subcluster of the image is allocated nowhere")
	}
	return nil
}
