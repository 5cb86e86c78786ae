// Package iso9660 writes small read-only volumes of one flat folder, by which a
// guest is told how to set itself up.
//
// It owns the format. It must not know what the files say: they may hold
// passwords, so nothing of them ever goes into an error.
package iso9660

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

// A volume with one flat folder, by ECMA-119 (ISO 9660), with the names a
// second and third time: as Rock Ridge (IEEE P1282) for Linux, and as Joliet
// for Windows. Plain ISO 9660 has no lower case and no '-', and the libraries
// at hand either stop there or write the time of day and the owner into the
// image, which would make it differ each time.
//
// sector:   0-15 system area, 16 primary, 17 Joliet and 18 last descriptor,
// 19-22 path tables, 23 primary folder, 24 Joliet folder, 25- the files.
const (
	sectorSize       = 2048
	primarySector    = 16
	jolietSector     = 17
	terminatorSector = 18
	pathTableSector  = 19 // little endian, big endian; then the same for Joliet
	primaryFolder    = 23
	jolietFolder     = 24
	firstFileSector  = 25
)

// ErrTooMany is a folder that is too small for its files.
var ErrTooMany = errors.New("more files than a folder holds")

// File is one file of a volume. Names are letters, digits and '-', with one '.'
// at most, and differ in more than case.
type File struct {
	Name    string
	Content []byte
}

// Image lays a volume out. Equal input gives equal bytes.
func Image(label string, files []File) ([]byte, error) {
	files = slices.Clone(files)
	// ECMA-119 wants folders sorted; '-' and '_' keep these names in order.
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	locations := make([]uint32, len(files))
	end := uint32(firstFileSector)
	for i, f := range files {
		locations[i] = end
		end += sectors(len(f.Content))
	}
	primary, err := folder(primaryFolder, files, locations, rockRidgeNames{})
	if err != nil {
		return nil, err
	}
	joliet, err := folder(jolietFolder, files, locations, jolietNames{})
	if err != nil {
		return nil, err
	}
	volume := make([]byte, int(end)*sectorSize)
	at := func(sector uint32) []byte { return volume[sector*sectorSize:] }
	copy(at(primarySector), descriptor(1, label, end))
	copy(at(jolietSector), descriptor(2, label, end))
	copy(at(terminatorSector), "\xffCD001\x01")
	for i, root := range []uint32{primaryFolder, jolietFolder} {
		little, big := pathTables(root)
		copy(at(pathTableSector+uint32(2*i)), little)
		copy(at(pathTableSector+uint32(2*i)+1), big)
	}
	copy(at(primaryFolder), primary)
	copy(at(jolietFolder), joliet)
	for i, f := range files {
		copy(at(locations[i]), f.Content)
	}
	return volume, nil
}

func sectors(size int) uint32 { return uint32((size + sectorSize - 1) / sectorSize) }

// descriptor is a primary (1) or, for Joliet, a supplementary (2) volume
// descriptor (ECMA-119 8.4 and 8.5).
func descriptor(kind byte, label string, size uint32) []byte {
	d := make([]byte, sectorSize)
	text := func(from, to int, value string) { copy(d[from:to], fmt.Sprintf("%-*s", to-from, value)) }
	tables, root := uint32(pathTableSector), uint32(primaryFolder)
	if kind == 2 {
		text = func(from, to int, value string) { copy(d[from:to], ucs2(fmt.Sprintf("%-*s", (to-from)/2, value))) }
		tables, root = tables+2, jolietFolder
	}
	d[0] = kind
	copy(d[1:], "CD001\x01")
	text(8, 40, "")
	text(40, 72, label)
	both32(d[80:], size)
	if kind == 2 {
		copy(d[88:], "%/E") // UCS-2 level 3
	}
	both16(d[120:], 1) // volumes in the set
	both16(d[124:], 1) // this one
	both16(d[128:], sectorSize)
	both32(d[132:], pathTableSize)
	binary.LittleEndian.PutUint32(d[140:], tables)
	binary.BigEndian.PutUint32(d[148:], tables+1)
	copy(d[156:], record(root, sectorSize, []byte{0}, flagFolder, nil))
	text(190, 813, "")
	for from := 813; from < 881; from += 17 {
		copy(d[from:], "0000000000000000\x00") // no date: the same bytes each time
	}
	d[881] = 1 // version of the file structure
	return d
}

const pathTableSize = 10

// pathTables lists the one folder there is (ECMA-119 9.4), in both byte orders.
func pathTables(root uint32) (little, big []byte) {
	little, big = make([]byte, pathTableSize), make([]byte, pathTableSize)
	little[0], big[0] = 1, 1
	binary.LittleEndian.PutUint32(little[2:], root)
	binary.BigEndian.PutUint32(big[2:], root)
	binary.LittleEndian.PutUint16(little[6:], 1)
	binary.BigEndian.PutUint16(big[6:], 1)
	return little, big
}

// naming is how a folder writes names: the identifier, and what follows it.
type naming interface {
	identifier(name string) []byte
	systemUse(name string) []byte
}

// folder gives the one sector of a folder's records.
func folder(self uint32, files []File, locations []uint32, names naming) ([]byte, error) {
	records := record(self, sectorSize, []byte{0}, flagFolder, names.systemUse("."))
	records = append(records, record(self, sectorSize, []byte{1}, flagFolder, names.systemUse(".."))...)
	for i, f := range files {
		records = append(records,
			record(locations[i], uint32(len(f.Content)), names.identifier(f.Name), 0, names.systemUse(f.Name))...)
	}
	if len(records) > sectorSize {
		return nil, fmt.Errorf("%w: %d", ErrTooMany, len(files))
	}
	return records, nil
}

const flagFolder = 2

// record is one directory record (ECMA-119 9.1).
func record(location, size uint32, identifier []byte, flags byte, systemUse []byte) []byte {
	r := make([]byte, 33, 255)
	both32(r[2:], location)
	both32(r[10:], size)
	copy(r[18:], []byte{80, 1, 1, 0, 0, 0, 0}) // 1980-01-01: the same bytes each time
	r[25] = flags
	both16(r[28:], 1)
	r[32] = byte(len(identifier))
	r = append(r, identifier...)
	if len(r)%2 == 1 {
		r = append(r, 0)
	}
	r = append(r, systemUse...)
	if len(r)%2 == 1 {
		r = append(r, 0)
	}
	r[0] = byte(len(r))
	return r
}

// rockRidgeNames writes an upper-case identifier, and the real name and mode as
// Rock Ridge entries.
type rockRidgeNames struct{}

func (rockRidgeNames) identifier(name string) []byte {
	base, extension, _ := strings.Cut(strings.ToUpper(strings.ReplaceAll(name, "-", "_")), ".")
	return []byte(base + "." + extension + ";1")
}

func (rockRidgeNames) systemUse(name string) []byte {
	switch name {
	case ".":
		// SP says that such entries are used, ER which ones.
		use := append([]byte("SP\x07\x01\xbe\xef\x00"), attributes(0o040555, 2)...)
		return append(use, "ER\x12\x01\x0a\x00\x00\x01RRIP_1991A"...)
	case "..":
		return attributes(0o040555, 2)
	}
	// The content may be secret: for root in the guest alone.
	use := attributes(0o100400, 1)
	return append(use, append([]byte{'N', 'M', byte(5 + len(name)), 1, 0}, name...)...)
}

// attributes is the PX entry: mode, links, owner and group 0.
func attributes(mode, links uint32) []byte {
	px := make([]byte, 36)
	copy(px, "PX\x24\x01")
	both32(px[4:], mode)
	both32(px[12:], links)
	return px
}

type jolietNames struct{}

// identifier leaves the version number out, as other writers do: some readers
// take ";1" for a part of the name.
func (jolietNames) identifier(name string) []byte { return ucs2(name) }
func (jolietNames) systemUse(string) []byte       { return nil }

func ucs2(text string) []byte {
	var b []byte
	for _, unit := range utf16.Encode([]rune(text)) {
		b = binary.BigEndian.AppendUint16(b, unit)
	}
	return b
}

// both16 and both32 write a number in both byte orders (ECMA-119 7.2.3, 7.3.3).
func both16(b []byte, v uint16) {
	binary.LittleEndian.PutUint16(b, v)
	binary.BigEndian.PutUint16(b[2:], v)
}

func both32(b []byte, v uint32) {
	binary.LittleEndian.PutUint32(b, v)
	binary.BigEndian.PutUint32(b[4:], v)
}
