package qcow2

import "encoding/binary"

// What is written, by QEMU's docs/interop/qcow2: version 3, clusters of 64 KiB,
// reference counts of 16 bits, no optional feature.
const (
	magic        = "QFI\xfb"
	backingAt    = 8  // of where the backing file's name is, then how long it is
	sizeAt       = 24 // of the disk's size in the header
	clusterBits  = 16
	l2Entries    = ClusterBytes / 8
	refEntries   = ClusterBytes / 2 // counts in a block of reference counts
	refOrder     = 4
	headerBytes  = 104
	formatKind   = 0xe2792aca // header extension: the backing file's format
	flagCopied   = 1 << 63
	flagZero     = 1
	maxNameBytes = 1023
)

// layout is where each part of the file begins, in clusters: the header, the L1
// table, the reference counts, the L2 tables, the data.
type layout struct {
	l1Entries, l1At           int64
	refTableAt, refTableLen   int64
	refBlocksAt, refBlocksLen int64
	l2At, l2Len               int64
	dataAt, end               int64
}

// place lays out a file. The blocks of reference counts count themselves, so
// their number grows until they cover the file.
func place(virtualBytes, tables, data int64) layout {
	l := layout{l1Entries: max(1, divide(virtualBytes, ClusterBytes*l2Entries)), l1At: 1, l2Len: tables}
	l.refTableAt = l.l1At + divide(l.l1Entries*8, ClusterBytes)
	for l.refBlocksLen = 1; ; l.refBlocksLen++ {
		l.refTableLen = divide(l.refBlocksLen*8, ClusterBytes)
		l.refBlocksAt = l.refTableAt + l.refTableLen
		l.l2At = l.refBlocksAt + l.refBlocksLen
		l.dataAt = l.l2At + tables
		l.end = l.dataAt + data
		if l.refBlocksLen*refEntries >= l.end {
			return l
		}
	}
}

// divide rounds up.
func divide(a, b int64) int64 { return (a + b - 1) / b }

func (p *Plan) header(b []byte) {
	be := binary.BigEndian
	copy(b, magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[sizeAt:], uint64(p.virtualBytes))
	be.PutUint32(b[36:], uint32(p.at.l1Entries))
	be.PutUint64(b[40:], uint64(p.at.l1At<<clusterBits))
	be.PutUint64(b[48:], uint64(p.at.refTableAt<<clusterBits))
	be.PutUint32(b[56:], uint32(p.at.refTableLen))
	be.PutUint32(b[96:], refOrder)
	be.PutUint32(b[100:], headerBytes)
	if p.backing == nil {
		return // the extensions end with zeros
	}
	be.PutUint32(b[headerBytes:], formatKind)
	be.PutUint32(b[headerBytes+4:], uint32(len(p.backing.Format)))
	copy(b[headerBytes+8:], p.backing.Format)
	// Behind the format, padded to 8 bytes, and the end of the extensions.
	name := headerBytes + 8 + (len(p.backing.Format)+7)&^7 + 8
	be.PutUint64(b[8:], uint64(name))
	be.PutUint32(b[16:], uint32(len(p.backing.Name)))
	copy(b[name:], p.backing.Name)
}

// l1 fills one cluster of the L1 table.
func (p *Plan) l1(index int64, b []byte) {
	first := index * l2Entries
	for i := p.tableFrom(first); i < len(p.tables) && p.tables[i] < first+l2Entries; i++ {
		entry := uint64((p.at.l2At+int64(i))<<clusterBits) | flagCopied
		binary.BigEndian.PutUint64(b[(p.tables[i]-first)*8:], entry)
	}
}

// l2 fills one L2 table.
func (p *Plan) l2(index int64, b []byte) {
	first := p.tables[index] * l2Entries
	for i := p.runAt(first); i < len(p.runs) && p.runs[i].First < first+l2Entries; i++ {
		run := p.runs[i]
		from, to := max(run.First, first), min(run.First+run.Count, first+l2Entries)
		for c := from; c < to; c++ {
			entry := uint64(flagZero)
			if !run.Zero {
				entry = uint64((p.at.dataAt+p.before[i]+c-run.First)<<clusterBits) | flagCopied
			}
			binary.BigEndian.PutUint64(b[(c-first)*8:], entry)
		}
	}
}

func (p *Plan) refTable(index int64, b []byte) {
	first := index * l2Entries
	for i := range min(int64(l2Entries), p.at.refBlocksLen-first) {
		binary.BigEndian.PutUint64(b[i*8:], uint64((p.at.refBlocksAt+first+i)<<clusterBits))
	}
}

// refBlock counts each cluster of the file once.
func (p *Plan) refBlock(index int64, b []byte) {
	for i := range min(int64(refEntries), p.at.end-index*refEntries) {
		binary.BigEndian.PutUint16(b[i*2:], 1)
	}
}
