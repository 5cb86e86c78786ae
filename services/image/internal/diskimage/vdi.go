package diskimage

import (
	"bytes"
	"encoding/binary"

	"orlop.dev/services/image/internal/failure"
)

// Numbers from VirtualBox's VDICore.h and the bounds that qemu's driver keeps.
const (
	vdiHeaderBytes = 512
	vdiVersion     = 0x00010001
	vdiDynamic     = 1
	vdiStatic      = 2
	vdiBlockBytes  = 1 << 20
	// vdiUnallocated and what is above stand for blocks that read as zeros.
	vdiUnallocated = 0xfffffffe
)

type vdi struct {
	version    uint32
	kind       uint32
	mapOffset  uint64
	dataOffset uint64
	sector     uint32
	size       uint64
	blockBytes uint32
	blockExtra uint32
	blocks     uint64
	linked     bool
}

func inspectVDI(f *file) (Info, error) {
	h, err := parseVDI(f)
	if err != nil {
		return Info{}, err
	}
	t := table{name: "block map", offset: h.mapOffset, entries: h.blocks, width: 4}
	err = f.scan(t, func(index uint64, b []byte) error {
		at := uint64(binary.LittleEndian.Uint32(b))
		if at >= vdiUnallocated {
			return nil
		}
		start := index * vdiBlockBytes
		if start >= h.size {
			return nil
		}
		return f.within("block", h.dataOffset+at*vdiBlockBytes, min(vdiBlockBytes, h.size-start))
	})
	if err != nil {
		return Info{}, err
	}
	// A guest's disk ends at a sector's end.
	return f.info(VDI, ceilDiv(h.size, sectorBytes)*sectorBytes)
}

func parseVDI(f *file) (*vdi, error) {
	b, err := f.read("vdi header", 0, vdiHeaderBytes)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	noUUID := make([]byte, 16)
	h := &vdi{
		version:    le.Uint32(b[0x44:]),
		kind:       le.Uint32(b[0x4c:]),
		mapOffset:  uint64(le.Uint32(b[0x154:])),
		dataOffset: uint64(le.Uint32(b[0x158:])),
		sector:     le.Uint32(b[0x168:]),
		size:       le.Uint64(b[0x170:]),
		blockBytes: le.Uint32(b[0x178:]),
		blockExtra: le.Uint32(b[0x17c:]),
		blocks:     uint64(le.Uint32(b[0x180:])),
		linked:     !bytes.Equal(b[0x1a8:0x1b8], noUUID) || !bytes.Equal(b[0x1b8:0x1c8], noUUID),
	}
	return h, h.check(f)
}

func (h *vdi) check(f *file) error {
	switch {
	case h.version != vdiVersion:
		return failure.Terminalf(ReasonUnsupportedFormat,
			"the image is vdi of version %d.%d; 1.1 is supported", h.version>>16, h.version&0xffff)
	case h.linked || (h.kind != vdiDynamic && h.kind != vdiStatic):
		return failure.Terminalf(ReasonBackingFile, "the vdi is a difference to another image; flatten it first")
	case h.sector != sectorBytes || h.blockBytes != vdiBlockBytes || h.blockExtra != 0:
		return failure.Terminalf(ReasonUnsupportedFeature,
			"the vdi has sectors of %d and blocks of %d+%d bytes; 512 and %d are supported",
			h.sector, h.blockBytes, h.blockExtra, vdiBlockBytes)
	case h.mapOffset%sectorBytes != 0 || h.dataOffset%sectorBytes != 0 || h.mapOffset == 0 || h.dataOffset == 0:
		return corrupt("the vdi's block map or data are at an impossible offset")
	}
	if err := f.checkVirtual(h.size); err != nil {
		return err
	}
	if h.blocks < ceilDiv(h.size, vdiBlockBytes) {
		return corrupt("the vdi has %d blocks, too few for its disk of %d bytes", h.blocks, h.size)
	}
	return nil
}
