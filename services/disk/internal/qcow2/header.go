package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// ErrFormat is a file that is no qcow2.
var ErrFormat = errors.New("it is no qcow2 file")

// VirtualBytes reads the size of the disk from a file's header. The file is one
// of ours, perhaps changed by QEMU since: nothing else of it is judged.
func VirtualBytes(path string) (int64, error) {
	file, header, err := open(path)
	if err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(header[sizeAt:])), file.Close()
}

// BackingPath reads the path of the file that a file stands on; empty where there
// is none. QEMU changes it where it copies what lies between.
func BackingPath(path string) (string, error) {
	file, header, err := open(path)
	if err != nil {
		return "", err
	}
	name := make([]byte, min(binary.BigEndian.Uint32(header[backingAt+8:]), maxNameBytes))
	_, err = file.ReadAt(name, int64(binary.BigEndian.Uint64(header[backingAt:])))
	if err = errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("header of %s: %w", path, err)
	}
	if len(name) == 0 || filepath.IsAbs(string(name)) {
		return string(name), nil
	}
	return filepath.Join(filepath.Dir(path), string(name)), nil
}

// open opens a file, and reads its header.
func open(path string) (*os.File, []byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	header := make([]byte, headerBytes)
	if _, err := file.ReadAt(header, 0); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("header of %s: %w", path, err), file.Close())
	}
	if string(header[:len(magic)]) != magic {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", path, ErrFormat), file.Close())
	}
	return file, header, nil
}
