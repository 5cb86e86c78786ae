package garbage_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"orlop.dev/deploy/local/internal/registry/garbage"
)

func TestPublishedImageStays(t *testing.T) {
	s := run(t, t.TempDir(), garbage.Options{Now: later(48 * time.Hour)})
	c := s.client()
	check(t, c.publish("vi/default/a", "uid", "disk"), c.publish("cvi/b", "uid", "other"))
	if report := s.collect(t); report.Blobs+report.Links+report.Manifests > 0 {
		t.Errorf("collected %+v", report)
	}
	check(t, c.whole("vi/default/a", "uid", "disk"), c.whole("cvi/b", "uid", "other"))
}

func TestDeletedImageGoesAtOnceAndWhole(t *testing.T) {
	s := run(t, t.TempDir(), garbage.Options{})
	c := s.client()
	check(t, c.publish("vi/default/a", "uid", "disk"))
	check(t, c.unpublish("vi/default/a", "disk"))
	report := s.collect(t)
	if report.Blobs != 3 || report.FreedBytes == 0 {
		t.Errorf("collected %+v, want the layer, the configuration and the manifest", report)
	}
	if files := left(t, s.dir); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "registry", "docker", "registry", "v2", "repositories", "vi")); !os.IsNotExist(err) {
		t.Errorf("the folder of the empty repository: %v", err)
	}
}

func TestSharedBlobStaysForTheOtherImage(t *testing.T) {
	s := run(t, t.TempDir(), garbage.Options{})
	c := s.client()
	check(t, c.publish("vi/default/a", "uid", "disk"), c.publish("vi/default/b", "uid", "disk"))
	check(t, c.unpublish("vi/default/a", "disk"))
	s.collect(t)
	check(t, c.whole("vi/default/b", "uid", "disk"))
}

func TestReplacedImageGoes(t *testing.T) {
	s := run(t, t.TempDir(), garbage.Options{})
	c := s.client()
	check(t, c.publish("vi/default/a", "uid", "first"), c.publish("vi/default/a", "uid", "second"))
	if report := s.collect(t); report.Manifests != 1 || s.has("first") {
		t.Errorf("collected %+v; the replaced disk is there: %v", report, s.has("first"))
	}
	check(t, c.whole("vi/default/a", "uid", "second"))
}

// Space of a disk's layer is not free while the disk has it.
func TestHardLinkOutlivesTheBlob(t *testing.T) {
	s := run(t, t.TempDir(), garbage.Options{})
	c := s.client()
	check(t, c.publish("vi/default/a", "uid", "disk"))
	pin := filepath.Join(t.TempDir(), "layer")
	check(t, os.Link(blobFile(s.dir, "disk"), pin), c.unpublish("vi/default/a", "disk"))
	s.collect(t)
	if content, err := os.ReadFile(pin); string(content) != "disk" || s.has("disk") {
		t.Errorf("the layer has %q, %v; the registry has it still: %v", content, err, s.has("disk"))
	}
}

// Between its blobs and its manifest an import has nothing but claims.
func TestBlobWaitsForItsManifest(t *testing.T) {
	for _, test := range []struct {
		name  string
		claim func(c client) error
	}{
		{"committed", func(c client) error { return c.pushBlob("vi/default/new", "disk") }},
		{"mounted", func(c client) error {
			_, err := c.mount("vi/default/new", "vi/default/old", "disk")
			return err
		}},
		{"asked for", func(c client) error {
			_, err := c.want(http.StatusOK, http.MethodHead, "/v2/vi/default/old/blobs/"+digest("disk"), "")
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			s := run(t, dir, garbage.Options{})
			c := s.client()
			check(t, c.publish("vi/default/old", "uid", "disk"), test.claim(c), c.unpublish("vi/default/old", "disk"))
			s.collect(t)
			if !s.has("disk") {
				t.Fatal("the blob is gone")
			}
			if again := run(t, dir, garbage.Options{}); again.collect(t).Blobs > 0 || !s.has("disk") {
				t.Fatal("the blob is gone after a restart")
			}
			late := run(t, dir, garbage.Options{Now: later(2 * time.Hour)})
			late.collect(t)
			if s.has("disk") {
				t.Error("the blob is there long after")
			}
		})
	}
}

func TestReleasedBlobGoesUnlessAManifestNamesIt(t *testing.T) {
	s := run(t, t.TempDir(), garbage.Options{})
	c := s.client()
	check(t, c.publish("vi/default/a", "uid", "disk"), c.pushBlob("vi/default/a", "refused"))
	for _, content := range []string{"disk", "refused"} {
		_, err := c.want(http.StatusAccepted, http.MethodDelete, "/v2/vi/default/a/blobs/"+digest(content), "")
		check(t, err)
	}
	_, err := c.want(http.StatusNotFound, http.MethodDelete, "/v2/vi/default/a/blobs/"+digest("never"), "")
	check(t, err)
	s.collect(t)
	if s.has("refused") {
		t.Error("the released blob is there")
	}
	check(t, c.whole("vi/default/a", "uid", "disk"))
}

func TestManifestPushedByDigestWaitsForItsTag(t *testing.T) {
	dir := t.TempDir()
	s := run(t, dir, garbage.Options{})
	c := s.client()
	check(t, c.publish("r", digest(manifest("disk")), "disk"))
	s.collect(t)
	check(t, c.whole("r", digest(manifest("disk")), "disk"))
	run(t, dir, garbage.Options{Now: later(2 * time.Hour)}).collect(t)
	if files := left(t, dir); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
}

func TestUploadGoesWhenNobodyGoesOnWithIt(t *testing.T) {
	dir := t.TempDir()
	s := run(t, dir, garbage.Options{})
	c := s.client()
	location, err := c.begin("vi/default/a")
	check(t, err)
	response, err := c.want(http.StatusAccepted, http.MethodPatch, location, "half")
	check(t, err)
	location = c.url + response.Header.Get("Location")
	if report := s.collect(t); report.Uploads > 0 {
		t.Fatalf("collected %+v", report)
	}
	late := run(t, dir, garbage.Options{Now: later(25 * time.Hour)})
	// Asking how far it is means going on.
	_, err = late.client().want(http.StatusNoContent, http.MethodGet, late.url+location[len(c.url):], "")
	check(t, err)
	if report := late.collect(t); report.Uploads > 0 {
		t.Fatalf("collected %+v", report)
	}
	later := run(t, dir, garbage.Options{Now: later(50 * time.Hour)})
	if report := later.collect(t); report.Uploads != 1 {
		t.Fatalf("collected %+v", report)
	}
	if files := left(t, dir); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
}

// The registry takes any JSON, and keeps it as it came.
func TestManifestWithEscapedDigestsHoldsItsBlobs(t *testing.T) {
	s := run(t, t.TempDir(), garbage.Options{})
	c := s.client()
	check(t, c.pushBlob("r", "{}"), c.pushBlob("r", "disk"))
	text := strings.ReplaceAll(manifest("disk"), "sha256:", `sha256\u003a`)
	if status, err := c.putManifest("r", "uid", text); status != http.StatusCreated || err != nil {
		t.Fatalf("the manifest was answered %d, %v", status, err)
	}
	s.collect(t)
	run(t, s.dir, garbage.Options{Now: later(48 * time.Hour)}).collect(t)
	if !s.has("disk") {
		t.Error("the blob is gone")
	}
}

// A request that is under way holds what it names, however slow it is.
func TestRequestUnderWayHoldsItsUpload(t *testing.T) {
	s := run(t, t.TempDir(), garbage.Options{Now: later(48 * time.Hour)})
	c := s.client()
	location, err := c.begin("vi/default/a")
	check(t, err)
	slow := newSlowBody("ha", "lf")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, location, slow)
	check(t, err)
	ended := make(chan error, 1)
	go func() {
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			err = response.Body.Close()
		}
		ended <- err
	}()
	<-slow.reached
	for !s.Busy("upload") {
		runtime.Gosched()
	}
	report := s.collect(t)
	close(slow.goOn)
	check(t, <-ended)
	if report.Uploads > 0 {
		t.Errorf("collected %+v", report)
	}
}

func TestDeletionIsCollectedSoon(t *testing.T) {
	s := run(t, t.TempDir(), garbage.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	defer func() { cancel(); <-ended }()
	c := s.client()
	check(t, c.publish("vi/default/a", "uid", "disk"), c.unpublish("vi/default/a", "disk"))
	deadline, look := time.After(30*time.Second), time.NewTicker(10*time.Millisecond)
	defer look.Stop()
	for s.has("disk") {
		select {
		case <-deadline:
			t.Fatal("the blob is there half a minute after its image was deleted")
		case <-look.C:
		}
	}
}

// later is a clock that is ahead.
func later(d time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(d) }
}
