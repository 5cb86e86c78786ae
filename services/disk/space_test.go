package disk_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/serve/servetest"
)

// smallDisk mounts a file system that is full soon.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a mount needs root")
	}
	dir := t.TempDir()
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"))
	t.Cleanup(func() { check(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// fill takes all the space but so many bytes.
func fill(t *testing.T, dir string, leave int64) string {
	t.Helper()
	var stat unix.Statfs_t
	check(t, unix.Statfs(dir, &stat))
	path := filepath.Join(dir, "ballast")
	check(t, os.WriteFile(path, make([]byte, int64(stat.Bavail)*stat.Bsize-leave), 0o600))
	return path
}

func TestFullStorageFailsADiskUntilThereIsSpaceAgain(t *testing.T) {
	h := newHouse(t)
	h.stop()
	h.opts.Dir = smallDisk(t)
	h.open()
	check(t, h.apply("before", blank("1Mi", "")))
	h.awaitDisk("before", diskv1.DiskPhase_Ready, "Ready", "")
	for _, left := range []int64{0, 8 << 10, 64 << 10} { // for nothing, for the record, for a part of the volume
		ballast := fill(t, h.opts.Dir, left)
		check(t, h.apply("after", blank("1Gi", "")))
		h.awaitDisk("after", diskv1.DiskPhase_Failed, "Ready", "no space is left where disks are kept")
		h.awaitDisk("before", diskv1.DiskPhase_Ready, "Ready", "")
		check(t, os.Remove(ballast))
		check(t, h.apply("after", blank("2Gi", ""))) // or it is tried again by itself a little later
		h.awaitDisk("after", diskv1.DiskPhase_Ready, "Ready", "")
		h.delete("after")
	}
}

func TestOvercommitIsLimited(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the next look: not in the fast run")
	}
	h := newHouse(t)
	h.stop()
	h.opts.Dir, h.opts.Overcommit = smallDisk(t), 4
	h.open()
	check(t, h.apply("one", blank("6Mi", "")))
	h.awaitDisk("one", diskv1.DiskPhase_Ready, "Ready", "")
	check(t, h.apply("two", blank("3Mi", "")))
	servetest.Await(t, h.disks, key("two"), "was refused", func(d *diskv1.VirtualDisk) bool {
		return d.GetStatus().GetPhase() == diskv1.DiskPhase_Pending &&
			condition.Find(d.GetStatus().GetConditions(), "Ready").GetReason() == "QuotaExceeded"
	})
	h.delete("one")
	h.awaitDisk("two", diskv1.DiskPhase_Ready, "Ready", "")
}
