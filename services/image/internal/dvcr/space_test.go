package dvcr_test

import (
	"bytes"
	"os"
	"syscall"
	"testing"

	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/failure"
)

// small is a folder with room for some chunks.
func small(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=6m"); err != nil {
		t.Skipf("a small file system can't be mounted: %v", err)
	}
	t.Cleanup(func() {
		// The registry closes its files a moment after its last answer.
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullRegistryIsToldAndWorksAgainWhenThereIsSpace(t *testing.T) {
	p := dvcrtest.Start(t, dvcrtest.Options{Root: small(t), Local: true}).Repository(t, "a/b")
	u := start(t, p)
	c := checkpoint(t, u)
	if _, err := push(t.Context(), u, bytes.NewReader(content(8*chunk))); failure.ReasonOf(err) != dvcr.ReasonNoSpace || failure.IsTerminal(err) {
		t.Errorf("got %v, want %s", err, dvcr.ReasonNoSpace)
	}
	if err := p.Cancel(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	data := content(3 * chunk)
	blob, err := push(t.Context(), start(t, p), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	holds(t, p, blob, data)
}
