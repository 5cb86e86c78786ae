package diskimage

import (
	"encoding/binary"

	"orlop.dev/services/image/internal/failure"
)

// Numbers from qemu's docs/interop/qcow2 and the bounds that its driver keeps.
const (
	qcow2HeaderV2       = 72
	qcow2HeaderV3       = 104
	qcow2MinClusterBits = 9
	qcow2MaxClusterBits = 21
	qcow2MinExtendedL2  = 14
	qcow2MaxL1Bytes     = 32 << 20
	qcow2MaxRefBytes    = 8 << 20
	qcow2MaxRefOrder    = 6
)

// Incompatible feature bits.
const (
	qcow2Dirty        = 1 << 0
	qcow2Corrupt      = 1 << 1
	qcow2ExternalData = 1 << 2
	qcow2Compression  = 1 << 3
	qcow2ExtendedL2   = 1 << 4
	qcow2Known        = qcow2Dirty | qcow2Corrupt | qcow2ExternalData | qcow2Compression | qcow2ExtendedL2
)

// Header extensions.
const (
	qcow2ExtEnd          = 0
	qcow2ExtExternalData = 0x44415441
	qcow2ExtEncryption   = 0x0537be77
)

// qcow2 is a header whose claims about the image's features were checked; its
// offsets were not.
type qcow2 struct {
	version      uint32
	clusterBits  uint32
	size         uint64
	l1Entries    uint64
	l1Offset     uint64
	refOffset    uint64
	refClusters  uint64
	snapshots    uint32
	encryption   uint32
	backing      uint64
	incompatible uint64
	refOrder     uint32
	headerBytes  uint64
	compression  byte
}

func (h *qcow2) clusterBytes() uint64 { return 1 << h.clusterBits }
func (h *qcow2) extendedL2() bool     { return h.incompatible&qcow2ExtendedL2 != 0 }

// l2Width is the size of an L2 entry in bytes.
func (h *qcow2) l2Width() uint64 {
	if h.extendedL2() {
		return 16
	}
	return 8
}

func (h *qcow2) l2Entries() uint64 { return h.clusterBytes() / h.l2Width() }

func inspectQCOW2(f *file) (Info, error) {
	h, err := parseQCOW2(f)
	if err != nil {
		return Info{}, err
	}
	if err := checkRefcounts(f, h); err != nil {
		return Info{}, err
	}
	if err := checkClusters(f, h); err != nil {
		return Info{}, err
	}
	return f.info(QCOW2, h.size)
}

func parseQCOW2(f *file) (*qcow2, error) {
	b, err := f.read("qcow2 header", 0, qcow2HeaderV2)
	if err != nil {
		return nil, err
	}
	be := binary.BigEndian
	h := &qcow2{
		version:     be.Uint32(b[4:]),
		backing:     be.Uint64(b[8:]),
		clusterBits: be.Uint32(b[20:]),
		size:        be.Uint64(b[24:]),
		encryption:  be.Uint32(b[32:]),
		l1Entries:   uint64(be.Uint32(b[36:])),
		l1Offset:    be.Uint64(b[40:]),
		refOffset:   be.Uint64(b[48:]),
		refClusters: uint64(be.Uint32(b[56:])),
		snapshots:   be.Uint32(b[60:]),
		refOrder:    4,
		headerBytes: qcow2HeaderV2,
	}
	if h.version != 2 && h.version != 3 {
		return nil, failure.Terminalf(ReasonUnsupportedFormat,
			"the image is qcow of version %d; versions 2 and 3 are supported", h.version)
	}
	if h.clusterBits < qcow2MinClusterBits || h.clusterBits > qcow2MaxClusterBits {
		return nil, corrupt("the image claims qcow2 clusters of 2^%d bytes", h.clusterBits)
	}
	if h.version == 3 {
		if err := h.parseV3(f); err != nil {
			return nil, err
		}
	}
	if err := h.checkFeatures(); err != nil {
		return nil, err
	}
	if err := f.checkVirtual(h.size); err != nil {
		return nil, err
	}
	return h, h.checkExtensions(f)
}

func (h *qcow2) parseV3(f *file) error {
	b, err := f.read("qcow2 header", 0, qcow2HeaderV3)
	if err != nil {
		return err
	}
	h.incompatible = binary.BigEndian.Uint64(b[72:])
	h.refOrder = binary.BigEndian.Uint32(b[96:])
	h.headerBytes = uint64(binary.BigEndian.Uint32(b[100:]))
	if h.headerBytes < qcow2HeaderV3 || h.headerBytes > h.clusterBytes() {
		return corrupt("the image claims a qcow2 header of %d bytes", h.headerBytes)
	}
	if h.refOrder > qcow2MaxRefOrder {
		return corrupt("the image claims reference counts of 2^%d bits", h.refOrder)
	}
	if h.headerBytes == qcow2HeaderV3 {
		return nil
	}
	b, err = f.read("qcow2 header", qcow2HeaderV3, 1)
	if err != nil {
		return err
	}
	h.compression = b[0]
	return nil
}

func (h *qcow2) checkFeatures() error {
	switch {
	case h.backing != 0:
		return failure.Terminalf(ReasonBackingFile, "the image needs a backing file; flatten it first (qemu-img convert)")
	case h.incompatible&qcow2ExternalData != 0:
		return failure.Terminalf(ReasonExternalData, "the image keeps its data in another file; flatten it first (qemu-img convert)")
	case h.encryption != 0:
		return failure.Terminalf(ReasonEncrypted, "the image is encrypted")
	case h.snapshots != 0:
		return failure.Terminalf(ReasonInternalSnapshots,
			"the image holds %d internal snapshots, which would be lost; remove them first (qemu-img snapshot -d)", h.snapshots)
	case h.incompatible&qcow2Corrupt != 0:
		return corrupt("the image is marked as corrupt; repair it first (qemu-img check -r all)")
	case h.incompatible&^uint64(qcow2Known) != 0:
		return failure.Terminalf(ReasonUnsupportedFeature,
			"the image uses unknown qcow2 features (incompatible bits %#x)", h.incompatible&^uint64(qcow2Known))
	case h.extendedL2() && h.clusterBits < qcow2MinExtendedL2:
		return corrupt("the image claims subclusters in clusters of 2^%d bytes", h.clusterBits)
	}
	return h.checkCompression()
}

// checkCompression holds the type against its feature bit: the bit is set for
// every type but zlib (0), and zstd (1) is the only other one.
func (h *qcow2) checkCompression() error {
	if h.compression > 1 {
		return failure.Terminalf(ReasonUnsupportedFeature, "the image uses unknown qcow2 compression %d", h.compression)
	}
	if (h.compression != 0) != (h.incompatible&qcow2Compression != 0) {
		return corrupt("the image contradicts itself about its compression")
	}
	return nil
}

// checkExtensions walks the header extensions, which fill the first cluster.
func (h *qcow2) checkExtensions(f *file) error {
	end := min(h.clusterBytes(), f.size)
	for at := h.headerBytes; at+8 <= end; {
		b, err := f.read("qcow2 header extensions", at, 8)
		if err != nil {
			return err
		}
		kind, length := binary.BigEndian.Uint32(b), uint64(binary.BigEndian.Uint32(b[4:]))
		switch kind {
		case qcow2ExtEnd:
			return nil
		case qcow2ExtExternalData:
			return failure.Terminalf(ReasonExternalData, "the image names an external data file")
		case qcow2ExtEncryption:
			return failure.Terminalf(ReasonEncrypted, "the image is encrypted")
		}
		if length > h.clusterBytes()-at-8 {
			return corrupt("a qcow2 header extension of %d bytes doesn't fit the header", length)
		}
		at += 8 + ceilDiv(length, 8)*8
	}
	return nil
}
