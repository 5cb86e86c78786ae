package diskimage_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/failure"
)

// patch is one field of an image set to what an honest writer never writes.
type patch struct {
	name   string
	offset int
	value  any // uint8, uint16, uint32 or uint64
	reason failure.Reason
}

var qcow2Patches = []patch{
	{"version 1", 4, uint32(1), diskimage.ReasonUnsupportedFormat},
	{"version 4", 4, uint32(4), diskimage.ReasonUnsupportedFormat},
	{"backing file", 8, uint64(1), diskimage.ReasonBackingFile},
	{"tiny clusters", 20, uint32(8), diskimage.ReasonCorrupt},
	{"huge clusters", 20, uint32(63), diskimage.ReasonCorrupt},
	{"no disk", 24, uint64(0), diskimage.ReasonEmpty},
	{"huge disk", 24, ^uint64(0), diskimage.ReasonTooLarge},
	{"disk beyond L1", 24, uint64(8 << 40), diskimage.ReasonCorrupt},
	{"encryption", 32, uint32(1), diskimage.ReasonEncrypted},
	{"huge L1", 36, uint32(1<<32 - 1), diskimage.ReasonCorrupt},
	{"L1 past the end", 36, uint32(4 << 20), diskimage.ReasonTruncated},
	{"L1 far away", 40, uint64(1 << 62), diskimage.ReasonTruncated},
	{"L1 unaligned", 40, uint64(0x30001), diskimage.ReasonCorrupt},
	{"reference table far away", 48, uint64(1 << 62), diskimage.ReasonTruncated},
	{"huge reference table", 56, uint32(1<<32 - 1), diskimage.ReasonCorrupt},
	{"snapshots", 60, uint32(1), diskimage.ReasonInternalSnapshots},
	{"corrupt bit", 72, uint64(2), diskimage.ReasonCorrupt},
	{"external data bit", 72, uint64(4), diskimage.ReasonExternalData},
	{"compression bit alone", 72, uint64(8), diskimage.ReasonCorrupt},
	{"unknown feature", 72, uint64(1 << 40), diskimage.ReasonUnsupportedFeature},
	{"reference order", 96, uint32(7), diskimage.ReasonCorrupt},
	{"short header", 100, uint32(80), diskimage.ReasonCorrupt},
	{"long header", 100, uint32(1 << 31), diskimage.ReasonCorrupt},
	{"compression type alone", 104, uint8(1), diskimage.ReasonCorrupt},
	{"unknown compression", 104, uint8(9), diskimage.ReasonUnsupportedFeature},
	{"external data name", 112, uint32(0x44415441), diskimage.ReasonExternalData},
	{"encryption header", 112, uint32(0x0537be77), diskimage.ReasonEncrypted},
	{"endless extension", 116, uint32(1<<32 - 1), diskimage.ReasonCorrupt},
}

var vmdkPatches = []patch{
	{"version", 4, uint32(4), diskimage.ReasonUnsupportedFormat},
	{"text transfer", 73, uint8('\r'), diskimage.ReasonCorrupt},
	{"no capacity", 12, uint64(0), diskimage.ReasonExternalExtent},
	{"huge capacity", 12, ^uint64(0), diskimage.ReasonTooLarge},
	{"grain not a power of two", 20, uint64(129), diskimage.ReasonCorrupt},
	{"no descriptor", 28, uint64(0), diskimage.ReasonUnsupportedFormat},
	{"descriptor far away", 28, uint64(1 << 60), diskimage.ReasonTruncated},
	{"huge descriptor", 36, uint64(1 << 60), diskimage.ReasonTruncated},
	{"no table entries", 44, uint32(0), diskimage.ReasonCorrupt},
	{"many table entries", 44, uint32(1 << 31), diskimage.ReasonCorrupt},
	{"no directory", 56, uint64(0), diskimage.ReasonCorrupt},
	{"directory far away", 56, uint64(1 << 62), diskimage.ReasonTruncated},
	{"footer missing", 56, ^uint64(0), diskimage.ReasonTruncated},
	{"redundant directory far away", 48, uint64(1 << 62), diskimage.ReasonTruncated},
}

var vdiPatches = []patch{
	{"version", 0x44, uint32(0x00020001), diskimage.ReasonUnsupportedFormat},
	{"difference", 0x4c, uint32(4), diskimage.ReasonBackingFile},
	{"parent", 0x1b8, uint32(1), diskimage.ReasonBackingFile},
	{"map far away", 0x154, uint32(0xfffffe00), diskimage.ReasonTruncated},
	{"map unaligned", 0x154, uint32(513), diskimage.ReasonCorrupt},
	{"sector", 0x168, uint32(4096), diskimage.ReasonUnsupportedFeature},
	{"block", 0x178, uint32(0), diskimage.ReasonUnsupportedFeature},
	{"huge disk", 0x170, ^uint64(0), diskimage.ReasonTooLarge},
	{"disk beyond blocks", 0x170, uint64(1 << 40), diskimage.ReasonCorrupt},
	{"huge map", 0x180, uint32(1<<32 - 1), diskimage.ReasonTruncated},
	{"data far away", 0x158, uint32(0xfffffe00), diskimage.ReasonTruncated},
}

func (p patch) apply(image []byte, order binary.AppendByteOrder) []byte {
	out := bytes.Clone(image)
	var value []byte
	switch v := p.value.(type) {
	case uint8:
		value = []byte{v}
	case uint32:
		value = order.AppendUint32(nil, v)
	case uint64:
		value = order.AppendUint64(nil, v)
	}
	copy(out[p.offset:], value)
	return out
}

func TestInspectRefusesImpossibleFields(t *testing.T) {
	raw := t.TempDir() + "/raw"
	writeRaw(t, raw)
	formats := []struct {
		format  string
		order   binary.AppendByteOrder
		patches []patch
	}{
		{"qcow2", binary.BigEndian, qcow2Patches},
		{"vmdk", binary.LittleEndian, vmdkPatches},
		{"vdi", binary.LittleEndian, vdiPatches},
	}
	for _, f := range formats {
		image, err := os.ReadFile(convert(t, raw, f.format, ""))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range f.patches {
			t.Run(f.format+" "+p.name, func(t *testing.T) {
				bad := p.apply(image, f.order)
				_, err := diskimage.Inspect(t.Context(), bytes.NewReader(bad), int64(len(bad)), diskimage.Limits{})
				if failure.ReasonOf(err) != p.reason {
					t.Errorf("got %v (%s), want %s", err, failure.ReasonOf(err), p.reason)
				}
			})
		}
	}
}

// TestInspectRefusesOverlappingTables guards its running time: every L1 entry
// of the image points at the one L2 table.
func TestInspectRefusesOverlappingTables(t *testing.T) {
	path := t.TempDir() + "/image"
	qemuImg(t, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "64M")
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l1 := binary.BigEndian.Uint64(image[40:])
	entry := image[l1 : l1+8]
	binary.BigEndian.PutUint32(image[36:], 1<<13)
	for i := range uint64(1 << 13) {
		copy(image[l1+i*8:], entry)
	}
	_, err = diskimage.Inspect(t.Context(), bytes.NewReader(image), int64(len(image)), diskimage.Limits{})
	if failure.ReasonOf(err) != diskimage.ReasonCorrupt {
		t.Errorf("got %v, want %s", err, diskimage.ReasonCorrupt)
	}
}

func TestScreenRefusesByHeadAlone(t *testing.T) {
	raw := t.TempDir() + "/raw"
	writeRaw(t, raw)
	image, err := os.ReadFile(convert(t, raw, "qcow2", ""))
	if err != nil {
		t.Fatal(err)
	}
	head := image[:diskimage.HeadBytes]
	if format, err := diskimage.Screen(head, diskimage.Limits{}); err != nil || format != diskimage.QCOW2 {
		t.Errorf("good head: got %s, %v", format, err)
	}
	bad := patch{offset: 8, value: uint64(0x200)}.apply(head, binary.BigEndian)
	if _, err := diskimage.Screen(bad, diskimage.Limits{}); failure.ReasonOf(err) != diskimage.ReasonBackingFile {
		t.Errorf("backing file: got %v", err)
	}
}
