package diskimage

import "orlop.dev/services/image/internal/failure"

// inspectRaw takes every byte as it is. A disk ends at a sector's end, so its
// size is rounded up, as qemu does.
func inspectRaw(f *file) (Info, error) {
	if f.size < sectorBytes {
		return Info{}, failure.Terminalf(ReasonUnsupportedFormat,
			"the file has %d bytes, less than one disk sector", f.size)
	}
	return f.info(Raw, ceilDiv(f.size, sectorBytes)*sectorBytes)
}
