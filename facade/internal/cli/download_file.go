package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
)

// downloadSuffix marks what is not whole. Before it stands what version of the
// disk it is: another one's parts don't fit.
const downloadSuffix = ".partial"

// downloadFile is the file while it comes.
type downloadFile struct {
	*os.File
	told   *diskv1.DiskExport
	bytes  int64 // that it has
	sum    hash.Hash
	sha256 string // the service's, once it told
}

// openDownload goes on with a part that fits, and removes those that don't.
func openDownload(path string, told *diskv1.DiskExport) (*downloadFile, error) {
	name := path + "." + told.GetEtag() + downloadSuffix
	siblings, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for _, sibling := range siblings {
		other := filepath.Join(filepath.Dir(path), sibling.Name())
		version, ours := strings.CutPrefix(sibling.Name(), filepath.Base(path)+".")
		if !ours || !isDownloadVersion(strings.TrimSuffix(version, downloadSuffix)) || !strings.HasSuffix(version, downloadSuffix) {
			continue
		}
		if filepath.Base(other) != filepath.Base(name) {
			if err := os.Remove(other); err != nil {
				return nil, err
			}
		}
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	f := &downloadFile{File: file, told: told, sum: sha256.New()}
	if f.bytes, err = io.Copy(f.sum, file); err == nil && f.bytes > told.GetSizeBytes() {
		err = f.restart()
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

// isDownloadVersion: other files with such names are none of ours.
func isDownloadVersion(text string) bool {
	digits, err := hex.DecodeString(text)
	return err == nil && len(digits) == sha256.Size/2
}

func (f *downloadFile) restart() error {
	f.bytes, f.sum = 0, sha256.New()
	return f.Truncate(0)
}

// take adds a piece. Zeros take no room.
func (f *downloadFile) take(piece *diskv1.ReadDiskExportResponse) error {
	if zeros := piece.GetZeroBytes(); zeros > 0 {
		f.bytes += zeros
		if err := zeroCopy(f.sum, zeros); err != nil {
			return err
		}
		return f.Truncate(f.bytes)
	}
	if sum := piece.GetSha256(); sum != "" {
		f.sha256 = sum
	}
	n, err := f.WriteAt(piece.GetData(), f.bytes)
	f.bytes += int64(n)
	f.sum.Write(piece.GetData()[:n])
	return err
}

// finish verifies the file and gives it its name.
func (f *downloadFile) finish(path string) error {
	if got := hex.EncodeToString(f.sum.Sum(nil)); got != f.sha256 {
		return errors.Join(fmt.Errorf("%s: %w", path, errWrongDigest), os.Remove(f.Name()))
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// fetching is the way of a disk to a file, over as many connections as it takes.
type fetching struct {
	*downloading
	file *downloadFile
}

func (f *fetching) run(ctx context.Context) error {
	t := transfer{
		bar: f.bar, timeout: f.timeout, attempt: f.attempt,
		bytes: func() int64 { return f.file.bytes },
		// Another content of the disk is no failure that passes by itself.
		passes: func(err error) bool { return fault.Is(err, fault.Transient) },
	}
	return t.run(ctx)
}

// attempt fetches the rest over one connection.
func (f *fetching) attempt(ctx context.Context) (done bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	told := f.file.told
	stream, err := f.service.ReadDiskExport(ctx, &diskv1.ReadDiskExportRequest{
		Namespace: told.GetNamespace(), Name: told.GetName(), Format: told.GetFormat(),
		Offset: f.file.bytes, Etag: told.GetEtag(),
	})
	if err != nil {
		return false, err
	}
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, err
		}
		if err := f.file.take(piece); err != nil {
			return false, err
		}
		if piece.GetFile() == nil && piece.GetSha256() == "" {
			f.bar.show(f.file.bytes, told.GetSizeBytes())
		}
	}
	if f.file.bytes != told.GetSizeBytes() {
		return false, fault.New(fault.Transient, "DownloadCut", "%d of %d bytes came", f.file.bytes, told.GetSizeBytes())
	}
	return true, nil
}
