// Package rootdisk makes a guest's root partition as large as the disk that it
// was copied to. It owns the arithmetic of the MBR and the kernel's view of the
// partition; the file system on it is the caller's.
package rootdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNotLast says that the partition can't grow, because another one begins
// behind it.
var ErrNotLast = errors.New("the partition is not the last one of its disk")

// The partition table of a PC: four entries of 16 bytes, in sectors.
const (
	sectorBytes  = 512
	tableOffset  = 446
	entryBytes   = 16
	startOffset  = 8
	lengthOffset = 12
	maxSectors   = 1<<32 - 1
)

// device is the part of an open disk that growing needs.
type device interface {
	io.ReaderAt
	io.WriterAt
}

// Extend lengthens partition number (from 1) of the disk to the disk's end, in
// the table only, and gives its first and its number of sectors. changed is
// false when it reached the end already. The table is one sector, so that it is
// written whole or not at all.
func Extend(disk device, diskBytes int64, number int) (start, sectors int64, changed bool, err error) {
	table := make([]byte, sectorBytes)
	if _, err := disk.ReadAt(table, 0); err != nil {
		return 0, 0, false, fmt.Errorf("partition table: %w", err)
	}
	if table[510] != 0x55 || table[511] != 0xaa || number < 1 || number > 4 {
		return 0, 0, false, fmt.Errorf("partition table: no MBR, or no primary partition %d", number)
	}
	entry := table[tableOffset+(number-1)*entryBytes:][:entryBytes]
	start = int64(binary.LittleEndian.Uint32(entry[startOffset:]))
	sectors = int64(binary.LittleEndian.Uint32(entry[lengthOffset:]))
	for other := range 4 {
		begin := binary.LittleEndian.Uint32(table[tableOffset+other*entryBytes+startOffset:])
		if int64(begin) > start {
			return 0, 0, false, ErrNotLast
		}
	}
	wanted := min(diskBytes/sectorBytes, maxSectors) - start
	if wanted <= sectors {
		return start, sectors, false, nil
	}
	binary.LittleEndian.PutUint32(entry[lengthOffset:], uint32(wanted))
	if _, err := disk.WriteAt(table, 0); err != nil {
		return 0, 0, false, fmt.Errorf("partition table: %w", err)
	}
	return start, wanted, true, nil
}

// Grow extends the partition that is mounted at the given path, and tells the
// kernel. It gives the partition's device and size in bytes. Calling it again
// changes nothing.
func Grow(mounted string) (partition string, bytes int64, err error) {
	var stat unix.Stat_t
	if err := unix.Stat(mounted, &stat); err != nil {
		return "", 0, fmt.Errorf("root disk: %w", err)
	}
	link := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	folder, err := filepath.EvalSymlinks(link)
	if err != nil {
		return "", 0, fmt.Errorf("root disk: %w", err)
	}
	number, err := readNumber(filepath.Join(folder, "partition"))
	if err != nil {
		return "", 0, fmt.Errorf("root disk: %s is not a partition: %w", mounted, err)
	}
	disk, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(folder)), os.O_RDWR, 0)
	if err != nil {
		return "", 0, fmt.Errorf("root disk: %w", err)
	}
	defer disk.Close()
	size, err := disk.Seek(0, io.SeekEnd)
	if err != nil {
		return "", 0, fmt.Errorf("root disk: %w", err)
	}
	start, sectors, changed, err := Extend(disk, size, number)
	if err != nil {
		return "", 0, err
	}
	if changed {
		err = tellKernel(disk, number, start, sectors)
	}
	return "/dev/" + filepath.Base(folder), sectors * sectorBytes, err
}

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// Types of linux/blkpg.h: a partition in use can only be resized by this call.
const (
	blkpg                = 0x1269
	blkpgResizePartition = 3
)

type blkpgPartition struct {
	start, length int64
	number        int32
	names         [128]byte
}

type blkpgArgument struct {
	operation, flags, length int32
	data                     unsafe.Pointer
}

func tellKernel(disk *os.File, number int, start, sectors int64) error {
	partition := blkpgPartition{start: start * sectorBytes, length: sectors * sectorBytes, number: int32(number)}
	argument := blkpgArgument{
		operation: blkpgResizePartition,
		length:    int32(unsafe.Sizeof(partition)),
		data:      unsafe.Pointer(&partition),
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, disk.Fd(), blkpg, uintptr(unsafe.Pointer(&argument)))
	if errno != 0 {
		return fmt.Errorf("root disk: resize partition %d: %w", number, errno)
	}
	return nil
}
