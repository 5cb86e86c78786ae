package sparse

import "encoding/binary"

// The qcow2 that is written: version 3, clusters of 64 KiB, reference counts of
// 16 bits, no optional feature.
const (
	clusterBits  = 16
	clusterBytes = 1 << clusterBits
	l2Entries    = clusterBytes / 8
	refEntries   = clusterBytes / 2 // counts in a reference count block
	refOrder     = 4
	headerBytes  = 104
	copied       = 1 << 63
	sectorBytes  = 512
	readBytes    = 16 * clusterBytes // taken from the source at once
)

// layout is where the tables at the end of the file lie, in clusters.
type layout struct {
	virtualBytes int64
	l1Entries    int64
	l1At         int64
	refTableAt   int64
	refTableLen  int64
	refBlocksAt  int64
	refBlocks    int64
	end          int64 // clusters in the file
}

// plan places the L1 table, the reference count table and its blocks behind
// used clusters. The blocks count themselves, so their number is found by
// growing it until they cover the file.
func plan(virtualBytes, l1Entries, used int64) layout {
	p := layout{virtualBytes: virtualBytes, l1Entries: l1Entries, l1At: used}
	p.refTableAt = p.l1At + max(1, clusters(l1Entries*8))
	for p.refBlocks = 1; ; p.refBlocks++ {
		p.refTableLen = clusters(p.refBlocks * 8)
		p.refBlocksAt = p.refTableAt + p.refTableLen
		p.end = p.refBlocksAt + p.refBlocks
		if p.refBlocks*refEntries >= p.end {
			return p
		}
	}
}

// clusters is how many clusters hold n bytes.
func clusters(n int64) int64 { return (n + clusterBytes - 1) >> clusterBits }

func (p layout) header() []byte {
	be := binary.BigEndian
	b := make([]byte, headerBytes+8) // and the end of the header extensions
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[24:], uint64(p.virtualBytes))
	be.PutUint32(b[36:], uint32(p.l1Entries))
	be.PutUint64(b[40:], uint64(p.l1At<<clusterBits))
	be.PutUint64(b[48:], uint64(p.refTableAt<<clusterBits))
	be.PutUint32(b[56:], uint32(p.refTableLen))
	be.PutUint32(b[96:], refOrder)
	be.PutUint32(b[100:], headerBytes)
	return b
}
