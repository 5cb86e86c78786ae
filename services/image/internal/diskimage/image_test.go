package diskimage_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/failure"
)

// diskBytes is no multiple of any cluster size, so that last clusters are partial.
const diskBytes = 5<<20 + 3*512

// qemuImg runs the real tool, which is the judge of what an image is.
func qemuImg(t testing.TB, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed (Debian package qemu-utils)")
	}
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %v: %v\n%s", args, err, out)
	}
}

// writeRaw makes a disk with data, text and holes.
func writeRaw(t testing.TB, path string) {
	t.Helper()
	disk := make([]byte, diskBytes)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(disk[100<<10 : 1<<20])
	copy(disk[2<<20:3<<20], bytes.Repeat([]byte("orlop "), 200<<10))
	random.Read(disk[diskBytes-70<<10:])
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
}

func inspect(t testing.TB, path string, limits diskimage.Limits) (diskimage.Info, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return diskimage.Inspect(t.Context(), f, stat.Size(), limits)
}

// variants are the images that qemu-img can make of a disk.
var variants = []struct {
	name    string
	format  diskimage.Format
	options string
	flags   []string
}{
	{name: "qcow2", format: diskimage.QCOW2},
	{name: "qcow2 v2", format: diskimage.QCOW2, options: "compat=0.10"},
	{name: "qcow2 512", format: diskimage.QCOW2, options: "cluster_size=512"},
	{name: "qcow2 4k", format: diskimage.QCOW2, options: "cluster_size=4k"},
	{name: "qcow2 2M", format: diskimage.QCOW2, options: "cluster_size=2M"},
	{name: "qcow2 metadata", format: diskimage.QCOW2, options: "preallocation=metadata"},
	{name: "qcow2 falloc", format: diskimage.QCOW2, options: "preallocation=falloc"},
	{name: "qcow2 full", format: diskimage.QCOW2, options: "preallocation=full"},
	{name: "qcow2 lazy", format: diskimage.QCOW2, options: "lazy_refcounts=on"},
	{name: "qcow2 1-bit refcounts", format: diskimage.QCOW2, options: "refcount_bits=1"},
	{name: "qcow2 64-bit refcounts", format: diskimage.QCOW2, options: "refcount_bits=64"},
	{name: "qcow2 subclusters", format: diskimage.QCOW2, options: "extended_l2=on,cluster_size=128k"},
	{name: "qcow2 subclusters metadata", format: diskimage.QCOW2, options: "extended_l2=on,preallocation=metadata"},
	{name: "qcow2 zlib", format: diskimage.QCOW2, flags: []string{"-c"}},
	{name: "qcow2 zlib 4k", format: diskimage.QCOW2, options: "cluster_size=4k", flags: []string{"-c"}},
	{name: "qcow2 zlib v2", format: diskimage.QCOW2, options: "compat=0.10", flags: []string{"-c"}},
	{name: "qcow2 zstd", format: diskimage.QCOW2, options: "compression_type=zstd", flags: []string{"-c"}},
	{name: "qcow2 zstd subclusters", format: diskimage.QCOW2, options: "compression_type=zstd,extended_l2=on", flags: []string{"-c"}},
	{name: "qcow2 zeros kept", format: diskimage.QCOW2, flags: []string{"-S", "0"}},
	{name: "vmdk", format: diskimage.VMDK, options: "subformat=monolithicSparse"},
	{name: "vmdk zeroed", format: diskimage.VMDK, options: "subformat=monolithicSparse,zeroed_grain=on"},
	{name: "vmdk stream", format: diskimage.VMDK, options: "subformat=streamOptimized"},
	{name: "vdi", format: diskimage.VDI},
	{name: "vdi static", format: diskimage.VDI, options: "static=on"},
	{name: "raw", format: diskimage.Raw},
}

func convert(t testing.TB, raw, format, options string, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	args := append([]string{"convert", "-f", "raw", "-O", format}, flags...)
	if options != "" {
		args = append(args, "-o", options)
	}
	qemuImg(t, append(args, raw, path)...)
	return path
}

func TestInspectUnderstandsWhatQemuImgMakesAndSeesItCut(t *testing.T) {
	raw := filepath.Join(t.TempDir(), "raw")
	writeRaw(t, raw)
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			path := convert(t, raw, string(v.format), v.options, v.flags...)
			info, err := inspect(t, path, diskimage.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			want := diskimage.Info{Format: v.format, VirtualBytes: diskBytes}
			if info != want {
				t.Errorf("got %+v, want %+v", info, want)
			}
			if _, err := inspect(t, path, diskimage.Limits{VirtualBytes: diskBytes - 1}); failure.ReasonOf(err) != diskimage.ReasonTooLarge {
				t.Errorf("over the limit: got %v, want %s", err, diskimage.ReasonTooLarge)
			}
			if v.format != diskimage.Raw {
				cut(t, path)
			}
		})
	}
}

// cut shortens the image step by step; each time it must be seen.
func cut(t *testing.T, path string) {
	t.Helper()
	stat, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{stat.Size() * 2 / 3, stat.Size() / 2, stat.Size() / 4, 512, 300} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if _, err := inspect(t, path, diskimage.Limits{}); failure.ReasonOf(err) != diskimage.ReasonTruncated {
			t.Errorf("cut to %d of %d bytes: got %v, want %s", size, stat.Size(), err, diskimage.ReasonTruncated)
		}
	}
}

func TestInspectUnderstandsPartlyWrittenClusters(t *testing.T) {
	if _, err := exec.LookPath("qemu-io"); err != nil {
		t.Skip("qemu-io is not installed (Debian package qemu-utils)")
	}
	for _, format := range []string{"qcow2", "vdi", "vmdk"} {
		t.Run(format, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			qemuImg(t, "create", "-q", "-f", format, path, "10M")
			for _, write := range []string{"write 1M 512", "write 10485248 512", "write -z 3M 1M", "discard 1M 64k", "write 4095k 2k"} {
				out, err := exec.Command("qemu-io", "-f", format, "-c", write, path).CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
			}
			info, err := inspect(t, path, diskimage.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if info.VirtualBytes != 10<<20 {
				t.Errorf("got %+v", info)
			}
		})
	}
}

func TestInspectTakesLargeSparseDisks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "16T")
	if info, err := inspect(t, path, diskimage.Limits{}); err != nil || info.VirtualBytes != 16<<40 {
		t.Errorf("16 TiB: got %+v, %v", info, err)
	}
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "60T")
	if _, err := inspect(t, path, diskimage.Limits{}); failure.ReasonOf(err) != diskimage.ReasonTooLarge {
		t.Errorf("60 TiB: got %v, want %s", err, diskimage.ReasonTooLarge)
	}
}

func TestInspectRefusesWhatQemuImgMakes(t *testing.T) {
	cases := []struct {
		name   string
		reason failure.Reason
		steps  [][]string
	}{
		{"qcow2 backing file", diskimage.ReasonBackingFile, [][]string{{"create", "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "IMAGE", "1M"}}},
		{"qcow2 external data", diskimage.ReasonExternalData, [][]string{{"create", "-f", "qcow2", "-o", "data_file=DATA", "IMAGE", "1M"}}},
		{"qcow2 luks", diskimage.ReasonEncrypted, [][]string{{"create", "-f", "qcow2", "--object", "secret,id=s,data=abc",
			"-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", "IMAGE", "1M"}}},
		{"qcow2 snapshot", diskimage.ReasonInternalSnapshots, [][]string{{"create", "-f", "qcow2", "IMAGE", "1M"}, {"snapshot", "-c", "s", "IMAGE"}}},
		{"qcow", diskimage.ReasonUnsupportedFormat, [][]string{{"create", "-f", "qcow", "IMAGE", "1M"}}},
		{"vhdx", diskimage.ReasonUnsupportedFormat, [][]string{{"create", "-f", "vhdx", "IMAGE", "1M"}}},
		{"vpc", diskimage.ReasonUnsupportedFormat, [][]string{{"create", "-f", "vpc", "IMAGE", "1M"}}},
		{"vmdk flat", diskimage.ReasonExternalExtent, [][]string{{"create", "-f", "vmdk", "-o", "subformat=monolithicFlat", "IMAGE", "1M"}}},
		{"vmdk split", diskimage.ReasonExternalExtent, [][]string{{"create", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", "IMAGE", "1M"}}},
		{"vmdk parent", diskimage.ReasonBackingFile, [][]string{{"create", "-f", "vmdk", "DATA", "1M"},
			{"create", "-f", "vmdk", "-b", "DATA", "-F", "vmdk", "IMAGE"}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			image := filepath.Join(dir, "image")
			for _, step := range c.steps {
				for i := range step {
					step[i] = string(bytes.ReplaceAll(bytes.ReplaceAll([]byte(step[i]), []byte("IMAGE"), []byte(image)),
						[]byte("DATA"), []byte(filepath.Join(dir, "data"))))
				}
				qemuImg(t, step...)
			}
			_, err := inspect(t, image, diskimage.Limits{})
			if failure.ReasonOf(err) != c.reason || !failure.IsTerminal(err) {
				t.Errorf("got %v (%s), want %s", err, failure.ReasonOf(err), c.reason)
			}
		})
	}
}

func TestInspectStopsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "1G")
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := diskimage.Inspect(ctx, bytes.NewReader(image), int64(len(image)), diskimage.Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
