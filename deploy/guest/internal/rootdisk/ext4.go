package rootdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrNotExt4 says that the device holds no ext2, ext3 or ext4 file system.
var ErrNotExt4 = errors.New("no ext4 file system")

// Fields of the ext4 superblock, which begins 1024 bytes into the device.
const (
	superblock     = 1024
	blocksLow      = 0x04
	blockSizeShift = 0x18
	magicOffset    = 0x38
	blocksHigh     = 0x150
	ext4Magic      = 0xef53
)

// FileSystemBytes gives the size of the ext4 file system on a device. Beside
// the partition's it tells whether growing was cut short half way.
func FileSystemBytes(device io.ReaderAt) (int64, error) {
	block := make([]byte, 1024)
	if _, err := device.ReadAt(block, superblock); err != nil {
		return 0, fmt.Errorf("superblock: %w", err)
	}
	if binary.LittleEndian.Uint16(block[magicOffset:]) != ext4Magic {
		return 0, ErrNotExt4
	}
	blocks := int64(binary.LittleEndian.Uint32(block[blocksLow:])) |
		int64(binary.LittleEndian.Uint32(block[blocksHigh:]))<<32
	return blocks * (1024 << binary.LittleEndian.Uint32(block[blockSizeShift:])), nil
}
