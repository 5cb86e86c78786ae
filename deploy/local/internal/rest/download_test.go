package rest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"orlop.dev/kit/fault"
)

const export = disks + "/data/export"

// newDisk is the door to a disk service with an empty disk.
func newDisk(t *testing.T) *door {
	t.Helper()
	if _, err := exec.LookPath("qemu-storage-daemon"); err != nil {
		t.Skip("qemu-utils is not installed: make setup installs it")
	}
	d := newDoor(t)
	d.ask(t, request{method: http.MethodPost, path: disks, body: map[string]any{
		"metadata": map[string]any{"name": "data"},
		"spec":     map[string]any{"persistentVolumeClaim": map[string]any{"size": "3Mi"}},
	}}).object(t, http.StatusOK)
	d.awaitDisk(t, func(disk map[string]any) bool { return at(disk, "status", "phase") == "Ready" })
	return d
}

// awaitDisk follows the disk until it is as wanted.
func (d *door) awaitDisk(t *testing.T, wanted func(disk map[string]any) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !wanted(d.get(t, "data")) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the disk is %v", d.get(t, "data"))
		}
	}
}

// inUse is the status of the condition InUse.
func inUse(disk map[string]any) any {
	conditions, _ := at(disk, "status", "conditions").([]any)
	for _, condition := range conditions {
		if at(condition, "type") == "InUse" {
			return at(condition, "status")
		}
	}
	return nil
}

func TestDiskIsDownloadedWholeAndInRanges(t *testing.T) {
	d := newDisk(t)
	whole := d.ask(t, request{method: http.MethodGet, path: export})
	if whole.StatusCode != http.StatusOK || !bytes.HasPrefix(whole.text, []byte("QFI\xfb")) || whole.ContentLength != int64(len(whole.text)) {
		t.Fatalf("%d, %v", whole.StatusCode, whole.Header)
	}
	etag := whole.Header.Get("ETag")
	part := d.ask(t, request{method: http.MethodGet, path: export, header: map[string]string{"Range": "bytes=100-199", "If-Range": etag}})
	if part.StatusCode != http.StatusPartialContent || !bytes.Equal(part.text, whole.text[100:200]) {
		t.Errorf("%d, %d bytes", part.StatusCode, len(part.text))
	}
	other := d.ask(t, request{method: http.MethodGet, path: export, header: map[string]string{"Range": "bytes=100-199", "If-Range": `"other"`}})
	if other.StatusCode != http.StatusOK || !bytes.Equal(other.text, whole.text) {
		t.Errorf("a part of another version: %d, %d bytes", other.StatusCode, len(other.text))
	}
	beyond := d.ask(t, request{method: http.MethodGet, path: export, header: map[string]string{"Range": "bytes=100000000-"}})
	if beyond.StatusCode != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("beyond the end: %d", beyond.StatusCode)
	}
	raw := d.ask(t, request{method: http.MethodGet, path: export + "?format=raw"})
	if !bytes.Equal(raw.text, make([]byte, 3<<20)) || raw.Header.Get("ETag") == etag {
		t.Errorf("raw has %d bytes, %v", len(raw.text), raw.Header)
	}
}

func TestDownloadTellsItsDigest(t *testing.T) {
	d := newDisk(t)
	sum := sha256.Sum256(make([]byte, 3<<20))
	want := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	head := request{method: http.MethodHead, path: export + "?format=raw"}
	if first := d.ask(t, head); first.StatusCode != http.StatusOK || first.ContentLength != 3<<20 || first.Header.Get("Repr-Digest") != "" {
		t.Errorf("%d, %v", first.StatusCode, first.Header)
	}
	head.header = map[string]string{"Want-Repr-Digest": "sha-256=1"}
	if asked := d.ask(t, head); asked.Header.Get("Repr-Digest") != want {
		t.Errorf("the digest is %v", asked.Header)
	}
	head.header = nil
	if known := d.ask(t, head); known.Header.Get("Repr-Digest") != want {
		t.Errorf("the digest is forgotten: %v", known.Header)
	}
}

func TestDownloadIsRefusedWithAReason(t *testing.T) {
	d := newDisk(t)
	for what, test := range map[string]struct {
		request request
		reason  string
	}{
		"a disk that is not there": {request{path: disks + "/none/export"}, "NotFound"},
		"an unknown format":        {request{path: export + "?format=vmdk"}, fault.ReasonInvalid},
		"an unknown parameter":     {request{path: export + "?size=1"}, fault.ReasonInvalid},
		"who may only look":        {request{path: export, token: viewerToken}, "Forbidden"},
	} {
		test.request.method = http.MethodGet
		answered := d.ask(t, test.request)
		if answered.StatusCode < 400 || !bytes.Contains(answered.text, []byte(`"`+test.reason+`"`)) {
			t.Errorf("%s: %d, %s", what, answered.StatusCode, answered.text)
		}
	}
}

func TestBrokenDownloadLetsTheDiskGo(t *testing.T) {
	d := newDisk(t)
	response := d.open(t, request{method: http.MethodGet, path: export + "?format=raw"})
	if _, err := io.ReadFull(response.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	check(t, response.Body.Close())
	d.awaitDisk(t, func(disk map[string]any) bool { return inUse(disk) == "False" })
}

func TestTreeOfADiskIsToldToWhoMayLook(t *testing.T) {
	d := newDisk(t)
	tree := d.ask(t, request{method: http.MethodGet, path: disks + "/data/tree", token: viewerToken}).object(t, http.StatusOK)
	parts, _ := tree["parts"].([]any)
	if len(parts) != 1 || at(tree, "name") != "data" {
		t.Errorf("the tree is %v", tree)
	}
}
