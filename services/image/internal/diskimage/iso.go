package diskimage

import "encoding/binary"

const (
	isoPrimaryDescriptor = 1
	isoDescriptorEnd     = 255
	isoSectorBytes       = 2048
	// isoMaxDescriptors ends the walk over a descriptor set that has no end;
	// real discs have two to five.
	isoMaxDescriptors = 64
)

// inspectISO handles ISO 9660 discs, hybrid ones (with a partition table in the
// system area) and discs with UDF alone. A guest sees the file byte by byte, so
// the disc's size is the file's.
func inspectISO(f *file) (Info, error) {
	for i := uint64(0); i < isoMaxDescriptors; i++ {
		d, err := f.read("volume descriptor", isoDescriptorOffset+i*isoSectorBytes, isoSectorBytes)
		if err != nil {
			return Info{}, err
		}
		if string(d[1:6]) != "CD001" || d[0] == isoDescriptorEnd {
			break
		}
		if d[0] != isoPrimaryDescriptor {
			continue
		}
		// ECMA-119 8.4: volume space size and logical block size, the
		// little-endian halves.
		blocks := uint64(binary.LittleEndian.Uint32(d[80:]))
		blockBytes := uint64(binary.LittleEndian.Uint16(d[128:]))
		if err := f.within("volume", 0, blocks*blockBytes); err != nil {
			return Info{}, err
		}
	}
	return f.info(ISO, ceilDiv(f.size, sectorBytes)*sectorBytes)
}
