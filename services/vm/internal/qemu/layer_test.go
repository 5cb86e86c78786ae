package qemu_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"orlop.dev/services/vm/internal/qemu"
)

// disks makes images with qemu-img in a folder that is a root.
type disks struct {
	t    *testing.T
	root string
}

func newDisks(t *testing.T) disks {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed")
	}
	return disks{t, t.TempDir()}
}

func (d disks) create(name, format string, options ...string) string {
	d.t.Helper()
	path := name
	if !filepath.IsAbs(name) {
		path = filepath.Join(d.root, name)
	}
	arguments := append([]string{"create", "-q", "-f", format}, options...)
	run(d.t, "qemu-img", append(arguments, path, "1M")...)
	return path
}

func TestLayersFollowTheChainWithItsNamedFormats(t *testing.T) {
	d := newDisks(t)
	base := d.create("base.vdi", "vdi")
	d.create("middle.qcow2", "qcow2", "-b", base, "-F", "vdi")
	top := d.create(filepath.Join(t.TempDir(), "top.qcow2"), "qcow2", "-b", filepath.Join(d.root, "middle.qcow2"), "-F", "qcow2")
	layers, err := qemu.Layers(top, qemu.FormatQCOW2, []string{d.root})
	if err != nil {
		t.Fatal(err)
	}
	want := []qemu.Layer{
		{Path: top, Format: qemu.FormatQCOW2},
		{Path: filepath.Join(d.root, "middle.qcow2"), Format: qemu.FormatQCOW2},
		{Path: base, Format: qemu.FormatVDI},
	}
	if len(layers) != len(want) {
		t.Fatalf("layers %+v", layers)
	}
	for i, layer := range layers {
		if layer.Path != want[i].Path || layer.Format != want[i].Format {
			t.Errorf("layer %d: %+v", i, layer)
		}
	}
}

func TestARelativeBackingFileIsBesideItsOverlay(t *testing.T) {
	d := newDisks(t)
	base := d.create("base.raw", "raw")
	top := d.create("top.qcow2", "qcow2", "-b", "base.raw", "-F", "raw")
	layers, err := qemu.Layers(top, qemu.FormatQCOW2, []string{d.root})
	if err != nil || len(layers) != 2 || layers[1].Path != base {
		t.Errorf("layers %+v, %v", layers, err)
	}
}

func TestFormatsThatNameNoOtherFileAreOneLayer(t *testing.T) {
	d := newDisks(t)
	for _, format := range []qemu.Format{qemu.FormatQCOW2, qemu.FormatRaw, qemu.FormatVDI, qemu.FormatVMDK} {
		path := d.create("one."+string(format), string(format))
		layers, err := qemu.Layers(path, format, nil)
		if err != nil || len(layers) != 1 || layers[0].Path != path || layers[0].Format != format {
			t.Errorf("%s: %+v, %v", format, layers, err)
		}
	}
	compat := d.create("old.qcow2", "qcow2", "-o", "compat=0.10")
	if layers, err := qemu.Layers(compat, qemu.FormatQCOW2, nil); err != nil || len(layers) != 1 {
		t.Errorf("qcow2 version 2: %+v, %v", layers, err)
	}
}

// patch overwrites bytes of an image.
func (d disks) patch(path string, offset int64, content []byte) {
	d.t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	_, err = file.WriteAt(content, offset)
	if err := errors.Join(err, file.Close()); err != nil {
		d.t.Fatal(err)
	}
}

func TestAnImageThatLeadsElsewhereIsRefused(t *testing.T) {
	attacks := map[string]func(d disks) (string, qemu.Format){
		"backing file outside of the roots": func(d disks) (string, qemu.Format) {
			return d.create("evil", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw"), qemu.FormatQCOW2
		},
		"backing file above the root": func(d disks) (string, qemu.Format) {
			d.create("../above.raw", "raw")
			return d.create("evil", "qcow2", "-u", "-b", "../above.raw", "-F", "raw"), qemu.FormatQCOW2
		},
		"backing file through a symbolic link": func(d disks) (string, qemu.Format) {
			if err := os.Symlink("/etc/passwd", filepath.Join(d.root, "link")); err != nil {
				d.t.Fatal(err)
			}
			return d.create("evil", "qcow2", "-u", "-b", "link", "-F", "raw"), qemu.FormatQCOW2
		},
		"backing file by a protocol": func(d disks) (string, qemu.Format) {
			return d.create("evil", "qcow2", "-u", "-b", "nbd://127.0.0.1/x", "-F", "raw"), qemu.FormatQCOW2
		},
		"backing file by a description": func(d disks) (string, qemu.Format) {
			return d.create("evil", "qcow2", "-u", "-b", `json:{"driver":"file","filename":"/etc/passwd"}`, "-F", "raw"), qemu.FormatQCOW2
		},
		"data in another file": func(d disks) (string, qemu.Format) {
			return d.create("evil", "qcow2", "-o", "data_file="+filepath.Join(d.root, "data")), qemu.FormatQCOW2
		},
		"backing format that isn't ours": func(d disks) (string, qemu.Format) {
			d.create("base.vhdx", "vhdx")
			return d.create("evil", "qcow2", "-u", "-b", "base.vhdx", "-F", "vhdx"), qemu.FormatQCOW2
		},
		"backing format left to guess": func(d disks) (string, qemu.Format) {
			d.create("base.raw", "raw")
			path := d.create("evil", "qcow2", "-u", "-b", "base.raw", "-F", "raw")
			d.patch(path, 112, bytes.Repeat([]byte{0}, 8)) // no extension at all
			return path, qemu.FormatQCOW2
		},
		"backing name longer than any": func(d disks) (string, qemu.Format) {
			d.create("base.raw", "raw")
			path := d.create("evil", "qcow2", "-u", "-b", "base.raw", "-F", "raw")
			d.patch(path, 16, binary.BigEndian.AppendUint32(nil, 1<<31))
			return path, qemu.FormatQCOW2
		},
		"circle": func(d disks) (string, qemu.Format) {
			return d.create("evil", "qcow2", "-u", "-b", "evil", "-F", "qcow2"), qemu.FormatQCOW2
		},
		"another format than said": func(d disks) (string, qemu.Format) {
			return d.create("raw", "raw"), qemu.FormatQCOW2
		},
		"VMDK that lists files": func(d disks) (string, qemu.Format) {
			return d.create("evil", "vmdk", "-o", "subformat=monolithicFlat"), qemu.FormatVMDK
		},
		"VMDK of capacity 0, which leads to a list": func(d disks) (string, qemu.Format) {
			path := d.create("evil", "vmdk")
			d.patch(path, 12, make([]byte, 8))
			return path, qemu.FormatVMDK
		},
	}
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			d := newDisks(t)
			path, format := attack(d)
			layers, err := qemu.Layers(path, format, []string{d.root})
			if !errors.Is(err, qemu.ErrUnsafe) {
				t.Errorf("%+v, %v", layers, err)
			}
		})
	}
}

func TestABackingFileThatIsMissingIsAnError(t *testing.T) {
	d := newDisks(t)
	top := d.create("top", "qcow2", "-u", "-b", "missing.raw", "-F", "raw")
	if _, err := qemu.Layers(top, qemu.FormatQCOW2, []string{d.root}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func FuzzQCOW2Headers(f *testing.F) {
	header := make([]byte, 256)
	copy(header, "QFI\xfb\x00\x00\x00\x03")
	f.Add(header)
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		layers, err := qemu.Layers(path, qemu.FormatQCOW2, []string{filepath.Dir(path)})
		if err == nil && layers[0].Path != path {
			t.Errorf("layers %+v", layers)
		}
	})
}
