package nocloud

import (
	"bytes"
	"io"
	"os"
	"strings"
)

// Where a volume label is, by file system: ECMA-119 section 8.4 for the ISO,
// the BIOS parameter block for FAT.
const (
	isoDescriptor = 16 * 2048
	isoMagic      = isoDescriptor + 1
	isoLabel      = isoDescriptor + 40
	fatMagic      = 510
	fat16Label    = 43
	fat16Kind     = 54
	fat32Label    = 71
	fat32Kind     = 82
)

// probe gives a device's file system and label. A device that can't be read
// (an empty CD drive, for one) has neither.
func probe(path string) (kind, name string) {
	device, err := os.Open(path)
	if err != nil {
		return "", ""
	}
	defer device.Close()
	switch {
	case field(device, isoMagic, 5) == "CD001":
		return "iso9660", field(device, isoLabel, 32)
	case field(device, fatMagic, 2) != "\x55\xaa":
		return "", ""
	case field(device, fat32Kind, 5) == "FAT32":
		return "vfat", field(device, fat32Label, 11)
	case strings.HasPrefix(field(device, fat16Kind, 5), "FAT1"):
		return "vfat", field(device, fat16Label, 11)
	default:
		return "", ""
	}
}

// field reads a padded text; what can't be read is empty.
func field(device io.ReaderAt, offset int64, length int) string {
	text := make([]byte, length)
	if _, err := device.ReadAt(text, offset); err != nil {
		return ""
	}
	return string(bytes.TrimRight(text, " \x00"))
}
