package diskimage

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"orlop.dev/services/image/internal/failure"
)

// Numbers from VMware's Virtual Disk Format 5.0 and the bounds that qemu's
// driver keeps.
const (
	vmdkHeaderBytes      = 512
	vmdkFooterBytes      = 1024 // the footer and the end-of-stream marker behind it
	vmdkMaxVersion       = 3
	vmdkMaxGrainSectors  = 1 << 21
	vmdkMaxTableEntries  = 512
	vmdkMaxDirectory     = 32 << 20
	vmdkMaxDescriptor    = 1 << 20
	vmdkDirectoryAtEnd   = ^uint64(0)
	vmdkDeflate          = 1
	vmdkMaxVirtualSector = 1 << 54
)

// Header flags.
const (
	vmdkNewlineTest    = 1 << 0
	vmdkRedundantTable = 1 << 1
	vmdkZeroedGrains   = 1 << 2
	vmdkCompressed     = 1 << 16
	vmdkMarkers        = 1 << 17
)

// vmdk is the header of a sparse extent; offsets and lengths are in sectors.
type vmdk struct {
	version          uint32
	flags            uint32
	capacity         uint64
	grain            uint64
	descriptorOffset uint64
	descriptorLength uint64
	tableEntries     uint64
	redundantOffset  uint64
	directoryOffset  uint64
	newline          []byte
	compression      uint16
}

func (h *vmdk) has(flag uint32) bool { return h.flags&flag != 0 }

func inspectVMDK(f *file) (Info, error) {
	h, err := parseVMDK(f)
	if err != nil {
		return Info{}, err
	}
	if h.directoryOffset == vmdkDirectoryAtEnd {
		if h, err = readVMDKFooter(f, h); err != nil {
			return Info{}, err
		}
	}
	if err := checkGrains(f, h); err != nil {
		return Info{}, err
	}
	return f.info(VMDK, h.capacity*sectorBytes)
}

// parseVMDK reads and checks the header at the start and its descriptor.
func parseVMDK(f *file) (*vmdk, error) {
	b, err := f.read("vmdk header", 0, vmdkHeaderBytes)
	if err != nil {
		return nil, err
	}
	h := decodeVMDK(b)
	if h.capacity == 0 {
		// qemu then looks for the extents in the descriptor, by path.
		return nil, failure.Terminalf(ReasonExternalExtent, "the vmdk holds no data of its own")
	}
	if err := h.check(f); err != nil {
		return nil, err
	}
	return h, h.checkDescriptor(f)
}

func decodeVMDK(b []byte) *vmdk {
	le := binary.LittleEndian
	return &vmdk{
		version:          le.Uint32(b[4:]),
		flags:            le.Uint32(b[8:]),
		capacity:         le.Uint64(b[12:]),
		grain:            le.Uint64(b[20:]),
		descriptorOffset: le.Uint64(b[28:]),
		descriptorLength: le.Uint64(b[36:]),
		tableEntries:     uint64(le.Uint32(b[44:])),
		redundantOffset:  le.Uint64(b[48:]),
		directoryOffset:  le.Uint64(b[56:]),
		newline:          b[73:77],
		compression:      le.Uint16(b[77:]),
	}
}

func (h *vmdk) check(f *file) error {
	switch {
	case h.version < 1 || h.version > vmdkMaxVersion:
		return failure.Terminalf(ReasonUnsupportedFormat,
			"the image is vmdk of version %d; versions 1 to %d are supported", h.version, vmdkMaxVersion)
	case h.has(vmdkNewlineTest) && !bytes.Equal(h.newline, []byte("\n \r\n")):
		return corrupt("the vmdk was damaged by a transfer in text mode")
	case h.capacity > vmdkMaxVirtualSector:
		return f.checkVirtual(^uint64(0))
	case bits.OnesCount64(h.grain) != 1 || h.grain > vmdkMaxGrainSectors:
		return corrupt("the vmdk claims grains of %d sectors", h.grain)
	case h.tableEntries == 0 || h.tableEntries > vmdkMaxTableEntries:
		return corrupt("the vmdk claims grain tables of %d entries", h.tableEntries)
	case h.has(vmdkCompressed) && h.compression != vmdkDeflate:
		return failure.Terminalf(ReasonUnsupportedFeature, "the vmdk uses unknown compression %d", h.compression)
	}
	return f.checkVirtual(h.capacity * sectorBytes)
}

// readVMDKFooter finds the header of a stream, whose writer knew the place of
// the grain directory only at the end.
func readVMDKFooter(f *file, head *vmdk) (*vmdk, error) {
	if f.size < vmdkHeaderBytes+vmdkFooterBytes {
		return nil, failure.Terminalf(ReasonTruncated, "the image is cut short: the vmdk's footer is missing")
	}
	b, err := f.read("vmdk footer", f.size-vmdkFooterBytes, vmdkHeaderBytes)
	if err != nil {
		return nil, err
	}
	if string(b[:4]) != "KDMV" {
		return nil, failure.Terminalf(ReasonTruncated, "the image is cut short: the vmdk's footer is missing")
	}
	h := decodeVMDK(b)
	if h.capacity != head.capacity || h.grain != head.grain || h.flags != head.flags {
		return nil, corrupt("the vmdk's footer contradicts its header")
	}
	return h, h.check(f)
}
