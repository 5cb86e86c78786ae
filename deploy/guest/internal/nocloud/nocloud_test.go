package nocloud

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
)

func TestFindDeviceGoesByLabel(t *testing.T) {
	for _, test := range []struct {
		name, kind string
		make       []string
	}{
		{name: "ISO", kind: "iso9660", make: []string{"genisoimage", "-quiet", "-V", "cidata", "-o"}},
		{name: "FAT in capitals", kind: "vfat", make: []string{"mkfs.vfat", "-C", "-n", "CIDATA"}},
		{name: "another ISO", make: []string{"genisoimage", "-quiet", "-V", "install", "-o"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := exec.LookPath(test.make[0]); err != nil {
				t.Skipf("%s is not installed: run make setup", test.make[0])
			}
			sys, dev := t.TempDir(), t.TempDir()
			for _, name := range []string{"sda", "sr0"} {
				if err := os.Mkdir(filepath.Join(sys, name), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			source := t.TempDir()
			if test.make[0] == "mkfs.vfat" {
				source = "2048"
			}
			device := filepath.Join(dev, "sr0")
			arguments := append(append([]string{}, test.make[1:]...), device, source)
			if output, err := exec.Command(test.make[0], arguments...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, output)
			}
			found, kind, err := findDevice(sys, dev)
			if test.kind == "" {
				if !errors.Is(err, ErrNoSeed) {
					t.Errorf("got %s, %v", found, err)
				}
				return
			}
			if err != nil || found != device || kind != test.kind {
				t.Errorf("got %s, %s, %v", found, kind, err)
			}
		})
	}
}

func TestReadDirNeedsMetaDataAlone(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadDir(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty folder: got %v", err)
	}
	meta := "instance-id: i-1\nlocal-hostname: a\npublic-keys: {one: k1, two: k2}\n"
	if err := os.WriteFile(filepath.Join(dir, "meta-data"), []byte(meta), 0o600); err != nil {
		t.Fatal(err)
	}
	seed, err := ReadDir(dir)
	want := Seed{Meta: Meta{InstanceID: "i-1", LocalHostname: "a", PublicKeys: PublicKeys{"k1", "k2"}}}
	if err != nil || !reflect.DeepEqual(seed, want) {
		t.Errorf("got %+v, %v", seed, err)
	}
}
