package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// ErrFormat is a file that is no qcow2.
var ErrFormat = errors.New("it is no qcow2 file")

// VirtualBytes reads the size of the disk from a file's header. The file is one
// of ours, perhaps changed by QEMU since: nothing else of it is judged.
func VirtualBytes(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	header := make([]byte, headerBytes)
	_, err = file.ReadAt(header, 0)
	if err = errors.Join(err, file.Close()); err != nil {
		return 0, fmt.Errorf("header of %s: %w", path, err)
	}
	if string(header[:len(magic)]) != magic {
		return 0, fmt.Errorf("%s: %w", path, ErrFormat)
	}
	return int64(binary.BigEndian.Uint64(header[sizeAt:])), nil
}
