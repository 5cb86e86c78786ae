package diskimage

import (
	"bytes"

	"orlop.dev/services/image/internal/failure"
)

// HeadBytes is how much of an image Detect and Screen want to see. ISO 9660's
// first volume descriptor, the magic that comes last, ends at 34 KiB.
const HeadBytes = 64 << 10

const (
	isoDescriptorOffset = 16 * 2048
	vdiSignatureOffset  = 0x40
)

type magic struct {
	name   string
	offset int
	bytes  string
}

// formats is read only. Order matters where a file could carry two magics: what
// stands at offset 0 wins.
var formats = []struct {
	format Format
	magic  magic
}{
	{QCOW2, magic{offset: 0, bytes: "QFI\xfb"}},
	{VMDK, magic{offset: 0, bytes: "KDMV"}},
	{VDI, magic{offset: vdiSignatureOffset, bytes: "\x7f\x10\xda\xbe"}},
	{ISO, magic{offset: isoDescriptorOffset + 1, bytes: "CD001"}},
	// A disc with UDF alone starts its volume recognition area like this.
	{ISO, magic{offset: isoDescriptorOffset + 1, bytes: "BEA01"}},
}

// foreign is read only: what would otherwise pass for a raw disk although it
// certainly isn't one.
var foreign = []magic{
	{"a VHDX disk", 0, "vhdxfile"},
	{"a VHD disk", 0, "conectix"},
	{"a QED disk", 0, "QED\x00"},
	{"a Parallels disk", 0, "WithoutFreeSpace"},
	{"a Parallels disk", 0, "WithouFreSpacExt"},
	{"a VMware COWD extent", 0, "COWD"},
	{"a VMware seSparse extent", 0, "\xbe\xba\xfe\xca\x00\x00\x00\x00"},
	{"a Bochs disk", 0, "Bochs Virtual HD Image"},
	{"a zip archive", 0, "PK\x03\x04"},
	{"a 7z archive", 0, "7z\xbc\xaf\x27\x1c"},
	{"a tar archive (as OVA files are)", 257, "ustar"},
}

// textual is read only: files of text that servers like to send instead.
var textual = []magic{
	{name: "a vmdk descriptor that names its extents by path", bytes: "# disk descriptorfile"},
	{name: "a web page", bytes: "<!doctype html"},
	{name: "a web page", bytes: "<html"},
	{name: "an XML document", bytes: "<?xml"},
}

// Detect names the format of an image by its first bytes. It refuses by name
// what is known not to be a disk that can be used; the rest is raw.
func Detect(head []byte) (Format, error) {
	for _, f := range formats {
		if f.magic.in(head) {
			return f.format, nil
		}
	}
	for _, m := range foreign {
		if m.in(head) {
			return "", unsupported(m.name)
		}
	}
	text := bytes.ToLower(bytes.TrimSpace(head[:min(len(head), 256)]))
	for i, m := range textual {
		if !m.in(text) {
			continue
		}
		if i == 0 {
			return "", failure.Terminalf(ReasonExternalExtent, "the file is %s", m.name)
		}
		return "", unsupported(m.name)
	}
	return Raw, nil
}

func (m magic) in(head []byte) bool {
	return len(head) >= m.offset+len(m.bytes) && string(head[m.offset:m.offset+len(m.bytes)]) == m.bytes
}

func unsupported(what string) error {
	return failure.Terminalf(ReasonUnsupportedFormat,
		"the file is %s; supported are qcow2, vmdk, vdi, iso and raw", what)
}
