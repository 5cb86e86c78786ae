package qemu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Layer is one file of a disk's chain. Layers[0] is the disk's own, each next
// one backs the one before.
type Layer struct {
	Path   string
	Format Format
	// Direct is whether the file can be read past the page cache (O_DIRECT).
	Direct bool
}

// ErrUnsafe is a disk image that refers to something it must not: a file
// outside the given folders, of a format that isn't named, or too deep.
var ErrUnsafe = errors.New("unsafe disk image")

// maxLayers bounds a chain. It also ends a chain that is a circle.
const maxLayers = 256

// Layers follows a disk image down its backing files. It reads headers itself
// and probes nothing: QEMU is later told each file and each format by name and
// doesn't look for itself. Every backing file must lie inside one of the roots,
// symbolic links resolved. The top is the caller's own choice and may lie
// anywhere.
func Layers(path string, format Format, roots []string) ([]Layer, error) {
	var layers []Layer
	for {
		if len(layers) == maxLayers {
			return nil, fmt.Errorf("%w: %s has more than %d layers", ErrUnsafe, layers[0].Path, maxLayers)
		}
		backing, err := inspect(path, format)
		if err != nil {
			return nil, err
		}
		layers = append(layers, Layer{Path: path, Format: format, Direct: takesDirect(path)})
		if backing.path == "" {
			return layers, nil
		}
		if !filepath.IsAbs(backing.path) {
			backing.path = filepath.Join(filepath.Dir(path), backing.path)
		}
		if err := inside(backing.path, roots); err != nil {
			return nil, fmt.Errorf("%s: backing file: %w", path, err)
		}
		path, format = backing.path, backing.format
	}
}

func inside(path string, roots []string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for _, root := range roots {
		realRoot, err := filepath.EvalSymlinks(root)
		if err != nil {
			continue // a root that isn't there holds nothing
		}
		if rest, err := filepath.Rel(realRoot, real); err == nil && filepath.IsLocal(rest) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s is outside of the folders for disks", ErrUnsafe, path)
}

// takesDirect tells whether the file system under path has O_DIRECT.
func takesDirect(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}

// backing is what a header says lies below; the zero value is nothing.
type backing struct {
	path   string
	format Format
}

func inspect(path string, format Format) (backing, error) {
	file, err := os.Open(path)
	if err != nil {
		return backing{}, err
	}
	defer file.Close()
	below := backing{}
	switch format {
	case FormatQCOW2:
		below, err = inspectQCOW2(file)
	case FormatVMDK:
		err = inspectVMDK(file)
	case FormatRaw, FormatVDI:
		// Neither can name another file.
	}
	if err != nil {
		return backing{}, fmt.Errorf("%s: %w", path, err)
	}
	return below, nil
}

// What Layers reads of qcow2, by QEMU's docs/interop/qcow2: all big endian.
const (
	qcow2Magic             = "QFI\xfb"
	qcow2HeaderSize        = 104
	qcow2MaxName           = 1023
	qcow2ExternalData      = 1 << 2 // incompatible feature: the data is in another file
	qcow2ExtensionFormat   = 0xe2792aca
	qcow2MaxExtensions     = 64
	qcow2Version2Size      = 72
	qcow2MaxExtensionBytes = 1 << 20
)

func inspectQCOW2(file io.ReaderAt) (backing, error) {
	header := make([]byte, qcow2HeaderSize)
	if _, err := file.ReadAt(header, 0); err != nil || string(header[:4]) != qcow2Magic {
		return backing{}, fmt.Errorf("%w: not a qcow2 image", ErrUnsafe)
	}
	end := int64(qcow2Version2Size)
	if binary.BigEndian.Uint32(header[4:]) >= 3 {
		if binary.BigEndian.Uint64(header[72:])&qcow2ExternalData != 0 {
			return backing{}, fmt.Errorf("%w: its data is in another file", ErrUnsafe)
		}
		end = int64(binary.BigEndian.Uint32(header[100:]))
	}
	offset := binary.BigEndian.Uint64(header[8:])
	if offset == 0 {
		return backing{}, nil
	}
	size := binary.BigEndian.Uint32(header[16:])
	if size == 0 || size > qcow2MaxName || offset > qcow2MaxExtensionBytes {
		return backing{}, fmt.Errorf("%w: malformed name of the backing file", ErrUnsafe)
	}
	name := make([]byte, size)
	if _, err := file.ReadAt(name, int64(offset)); err != nil {
		return backing{}, fmt.Errorf("name of the backing file: %w", err)
	}
	// "json:", "nbd:" and the like are instructions to QEMU, not files.
	first, _, _ := strings.Cut(string(name), "/")
	if strings.Contains(first, ":") || strings.Contains(string(name), "\x00") {
		return backing{}, fmt.Errorf("%w: the backing file is not a plain path", ErrUnsafe)
	}
	format, err := backingFormat(file, end)
	return backing{path: string(name), format: format}, err
}

// backingFormat looks for the format among the header's extensions: "qemu-img
// create -F" writes it. Without it QEMU would guess from the content.
func backingFormat(file io.ReaderAt, offset int64) (Format, error) {
	for range qcow2MaxExtensions {
		head := make([]byte, 8)
		if _, err := file.ReadAt(head, offset); err != nil {
			return "", fmt.Errorf("header extension: %w", err)
		}
		kind, size := binary.BigEndian.Uint32(head), int64(binary.BigEndian.Uint32(head[4:]))
		if kind == 0 || size > qcow2MaxExtensionBytes {
			break
		}
		if kind != qcow2ExtensionFormat {
			offset += 8 + (size+7)&^7
			continue
		}
		value := make([]byte, min(size, 16))
		if _, err := file.ReadAt(value, offset+8); err != nil {
			return "", fmt.Errorf("header extension: %w", err)
		}
		for _, format := range formats {
			if string(value) == string(format) {
				return format, nil
			}
		}
		return "", fmt.Errorf("%w: the backing file's format %q is not one of %q", ErrUnsafe, value, formats)
	}
	return "", fmt.Errorf("%w: the backing file's format is not named", ErrUnsafe)
}

// inspectVMDK takes only the sparse kinds that are one file. The others begin
// with a text that lists files, or with a header of capacity 0 that leads to
// such a text; QEMU would open whatever they name.
func inspectVMDK(file io.ReaderAt) error {
	header := make([]byte, 20)
	if _, err := file.ReadAt(header, 0); err != nil || string(header[:4]) != "KDMV" {
		return fmt.Errorf("%w: not a VMDK image of a single file", ErrUnsafe)
	}
	if binary.LittleEndian.Uint64(header[12:]) == 0 {
		return fmt.Errorf("%w: a VMDK image that lists other files", ErrUnsafe)
	}
	return nil
}
