package diskimage

import "encoding/binary"

// vmdkMarkerBytes is the head of a compressed grain: its first sector (8 bytes)
// and the length of what follows (4).
const vmdkMarkerBytes = 12

// grainCheck follows grain directory and tables to every grain.
type grainCheck struct {
	f      *file
	h      *vmdk
	tables budget
	// last is the grain nearest to the end of the file, in sectors: the one
	// that a cut would hit.
	last uint64
}

func checkGrains(f *file, h *vmdk) error {
	directories := []uint64{h.directoryOffset}
	if h.has(vmdkRedundantTable) && h.redundantOffset != 0 && h.redundantOffset != vmdkDirectoryAtEnd {
		directories = append(directories, h.redundantOffset)
	}
	for _, offset := range directories {
		c := &grainCheck{f: f, h: h, tables: budget{name: "grain tables", left: f.size}}
		if err := c.directory(offset); err != nil {
			return err
		}
		if err := c.lastCompressed(); err != nil {
			return err
		}
	}
	return nil
}

func (c *grainCheck) directory(sector uint64) error {
	entries := ceilDiv(c.h.capacity, c.h.grain*c.h.tableEntries)
	if entries > vmdkMaxDirectory/4 {
		return corrupt("the vmdk needs a grain directory of %d entries", entries)
	}
	if sector == 0 {
		return corrupt("the vmdk has no grain directory")
	}
	sector = min(sector, vmdkMaxVirtualSector) // past any file's end, and safe to multiply
	t := table{name: "grain directory", offset: sector * sectorBytes, entries: entries, width: 4}
	return c.f.scan(t, func(index uint64, b []byte) error {
		at := uint64(binary.LittleEndian.Uint32(b))
		if at == 0 {
			return nil
		}
		if err := c.tables.spend(c.h.tableEntries * 4); err != nil {
			return err
		}
		t := table{name: "grain table", offset: at * sectorBytes, entries: c.h.tableEntries, width: 4}
		return c.f.scan(t, func(i uint64, b []byte) error {
			return c.grain(index*c.h.tableEntries+i, uint64(binary.LittleEndian.Uint32(b)))
		})
	})
}

func (c *grainCheck) grain(index, sector uint64) error {
	if sector == 0 || (sector == 1 && c.h.has(vmdkZeroedGrains)) {
		return nil
	}
	start := index * c.h.grain
	if start >= c.h.capacity {
		return nil
	}
	if c.h.has(vmdkCompressed) {
		c.last = max(c.last, sector)
		return c.f.within("compressed grain", sector*sectorBytes, vmdkMarkerBytes)
	}
	visible := min(c.h.grain, c.h.capacity-start)
	return c.f.within("grain", sector*sectorBytes, visible*sectorBytes)
}

// lastCompressed checks the length of the compressed grain at the end; those
// before it can't reach further.
func (c *grainCheck) lastCompressed() error {
	if c.last == 0 {
		return nil
	}
	b, err := c.f.read("compressed grain", c.last*sectorBytes, vmdkMarkerBytes)
	if err != nil {
		return err
	}
	length := uint64(binary.LittleEndian.Uint32(b[8:]))
	return c.f.within("compressed grain", c.last*sectorBytes+vmdkMarkerBytes, length)
}
