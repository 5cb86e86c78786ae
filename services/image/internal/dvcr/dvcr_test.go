package dvcr_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"

	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/failure"
)

const chunk = 1 << 20

func content(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{9}).Read(data)
	return data
}

// push sends all of r in chunks and commits.
func push(ctx context.Context, u *dvcr.Upload, r io.Reader) (dvcr.Blob, error) {
	for {
		err := u.Append(ctx, r, chunk)
		if errors.Is(err, io.EOF) {
			return u.Commit(ctx)
		}
		if err != nil {
			return dvcr.Blob{}, err
		}
	}
}

// bothWays runs a test with bytes in requests and with bytes in files.
func bothWays(t *testing.T, test func(t *testing.T, local bool)) {
	t.Helper()
	for name, local := range map[string]bool{"by requests": false, "by files": true} {
		t.Run(name, func(t *testing.T) { test(t, local) })
	}
}

func start(t *testing.T, p *dvcr.Repository) *dvcr.Upload {
	t.Helper()
	u, err := p.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// holds checks that the registry gives back exactly data.
func holds(t *testing.T, p *dvcr.Repository, b dvcr.Blob, data []byte) {
	t.Helper()
	if b.Digest != digest.FromBytes(data) || b.Size != int64(len(data)) {
		t.Errorf("got blob %+v, want %s of %d bytes", b, digest.FromBytes(data), len(data))
	}
	got, err := io.ReadAll(io.NewSectionReader(p.Open(t.Context(), b), 0, b.Size))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes back, %v", len(got), err)
	}
}

func TestImageComesBackAsItWentIn(t *testing.T) {
	for name, options := range map[string]dvcrtest.Options{
		"plain": {}, "TLS and password": {Secure: true}, "by files": {Secure: true, Local: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := dvcrtest.Start(t, options).Repository(t, "vi/default/ubuntu")
			data := content(3*chunk + 17)
			blob, err := push(t.Context(), start(t, p), bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			holds(t, p, blob, data)
			want := dvcr.Artifact{Disk: blob, Format: "qcow2", VirtualBytes: 5 << 30, CDROM: false}
			pushed, err := p.Push(t.Context(), "v1", want)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := p.Push(t.Context(), "v1", want); err != nil || again != pushed {
				t.Errorf("pushed again: got %s, %v; want %s", again, err, pushed)
			}
			got, read, err := p.Get(t.Context(), "v1")
			if err != nil || got != want || read != pushed {
				t.Errorf("got %+v, %s, %v; want %+v, %s", got, read, err, want, pushed)
			}
		})
	}
}

func TestUploadOfAnySize(t *testing.T) {
	bothWays(t, func(t *testing.T, local bool) {
		p := dvcrtest.Start(t, dvcrtest.Options{Local: local}).Repository(t, "a/b")
		for _, size := range []int{0, 1, 2, chunk - 1, chunk, chunk + 1, 2 * chunk} {
			data := content(size)
			blob, err := push(t.Context(), start(t, p), iotest.HalfReader(bytes.NewReader(data)))
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			holds(t, p, blob, data)
		}
	})
}

// TestUploadSurvivesItsProcess also with another process of the registry.
func TestUploadSurvivesItsProcess(t *testing.T) {
	bothWays(t, func(t *testing.T, local bool) {
		first := dvcrtest.Start(t, dvcrtest.Options{Local: local})
		p := first.Repository(t, "a/b")
		data := content(5 * chunk)
		u := start(t, p)
		if err := u.Append(t.Context(), bytes.NewReader(data), 2*chunk); err != nil {
			t.Fatal(err)
		}
		checkpoint, err := u.Checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		saved, err := json.Marshal(checkpoint)
		if err != nil {
			t.Fatal(err)
		}

		second := dvcrtest.Start(t, dvcrtest.Options{Root: first.Root, Local: local}).Repository(t, "a/b")
		var c dvcr.Checkpoint
		if err := json.Unmarshal(saved, &c); err != nil {
			t.Fatal(err)
		}
		u, err = second.Resume(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		blob, err := push(t.Context(), u, bytes.NewReader(data[u.Offset():]))
		if err != nil {
			t.Fatal(err)
		}
		holds(t, second, blob, data)
	})
}

// TestUploadGoesOnAfterSourceBreaksInChunk: the registry then has more than the
// checkpoint says.
func TestUploadGoesOnAfterSourceBreaksInChunk(t *testing.T) {
	bothWays(t, func(t *testing.T, local bool) {
		p := dvcrtest.Start(t, dvcrtest.Options{Local: local}).Repository(t, "a/b")
		data := content(4 * chunk)
		broken := errors.New("broken")
		u := start(t, p)
		if err := u.Append(t.Context(), bytes.NewReader(data), chunk); err != nil {
			t.Fatal(err)
		}
		c, err := u.Checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		r := io.MultiReader(bytes.NewReader(data[chunk:3*chunk]), iotest.ErrReader(broken))
		if err := u.Append(t.Context(), r, 3*chunk); !errors.Is(err, broken) {
			t.Fatalf("got %v, want %v", err, broken)
		}
		holds(t, p, resume(t, p, c, data), data)
	})
}

// resume goes on from c until the blob is there. A request that broke off may
// write for a moment more.
func resume(t *testing.T, p *dvcr.Repository, c dvcr.Checkpoint, data []byte) dvcr.Blob {
	t.Helper()
	for t.Context().Err() == nil {
		u, err := p.Resume(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if u.Offset() != c.Offset {
			t.Fatalf("resumed at %d, want the checkpoint's %d", u.Offset(), c.Offset)
		}
		blob, err := push(t.Context(), u, bytes.NewReader(data[u.Offset():]))
		if err == nil {
			return blob
		}
		if failure.ReasonOf(err) != dvcr.ReasonUploadMoved {
			t.Fatal(err)
		}
	}
	return dvcr.Blob{}
}

// TestUploadGoesOnAfterRegistryBreaksOff cuts the third PATCH in its middle.
func TestUploadGoesOnAfterRegistryBreaksOff(t *testing.T) {
	var patches atomic.Int64
	cut := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch && patches.Add(1) == 3 {
				r.Body = io.NopCloser(io.LimitReader(r.Body, chunk/2))
				h.ServeHTTP(discard{http.Header{}}, r)
				panic(http.ErrAbortHandler)
			}
			h.ServeHTTP(w, r)
		})
	}
	p := dvcrtest.Start(t, dvcrtest.Options{Wrap: cut}).Repository(t, "a/b")
	data := content(4 * chunk)
	u := start(t, p)
	var c dvcr.Checkpoint
	for range 3 {
		err := u.Append(t.Context(), bytes.NewReader(data[u.Offset():]), chunk)
		if err != nil {
			if failure.ReasonOf(err) != dvcr.ReasonUnavailable || failure.IsTerminal(err) {
				t.Errorf("got %v, want %s", err, dvcr.ReasonUnavailable)
			}
			break
		}
		if c, err = u.Checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
	if c.Offset != 2*chunk {
		t.Fatalf("checkpoint at %d, want %d", c.Offset, 2*chunk)
	}
	holds(t, p, resume(t, p, c, data), data)
}

// TestUploadToStalledRegistryIsGivenUp of which a request is taken, and nothing
// more.
func TestUploadToStalledRegistryIsGivenUp(t *testing.T) {
	goOn := make(chan struct{})
	stall := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch {
				<-goOn
			}
			h.ServeHTTP(w, r)
		})
	}
	registry := dvcrtest.Start(t, dvcrtest.Options{Wrap: stall})
	registry.Options.Stall = 100 * time.Millisecond
	p, data := registry.Repository(t, "a/b"), content(16*chunk)
	u := start(t, p)
	c, err := u.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	err = u.Append(t.Context(), bytes.NewReader(data), int64(len(data)))
	if failure.ReasonOf(err) != dvcr.ReasonUnavailable || failure.IsTerminal(err) || !strings.Contains(err.Error(), "took nothing for 100ms") {
		t.Fatalf("got %v, want %s", err, dvcr.ReasonUnavailable)
	}
	close(goOn)
	holds(t, p, resume(t, p, c, data), data)
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

func TestResumeOfLostUpload(t *testing.T) {
	bothWays(t, func(t *testing.T, local bool) {
		p := dvcrtest.Start(t, dvcrtest.Options{Local: local}).Repository(t, "a/b")
		u := start(t, p)
		if err := u.Append(t.Context(), bytes.NewReader(content(chunk)), chunk); err != nil {
			t.Fatal(err)
		}
		c, err := u.Checkpoint()
		if err != nil {
			t.Fatal(err)
		}
		more := c
		more.Offset++
		bad := c
		bad.HashState = []byte("no hash")
		for name, c := range map[string]dvcr.Checkpoint{"registry has less": more, "no hash": bad} {
			if _, err := p.Resume(t.Context(), c); failure.ReasonOf(err) != dvcr.ReasonUploadLost {
				t.Errorf("%s: got %v, want %s", name, err, dvcr.ReasonUploadLost)
			}
		}
		if err := u.Cancel(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := p.Cancel(t.Context(), c); err != nil {
			t.Errorf("cancelled twice: %v", err)
		}
		if _, err := p.Resume(t.Context(), c); failure.ReasonOf(err) != dvcr.ReasonUploadLost {
			t.Errorf("cancelled: got %v, want %s", err, dvcr.ReasonUploadLost)
		}
	})
}

func TestMountMovesNoData(t *testing.T) {
	registry := dvcrtest.Start(t, dvcrtest.Options{})
	from, to := registry.Repository(t, "vi/a/x"), registry.Repository(t, "cvi/y")
	data := content(chunk)
	blob, err := push(t.Context(), start(t, from), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Mount(t.Context(), from, blob.Digest); err != nil {
		t.Fatal(err)
	}
	holds(t, to, blob, data)
	if has, err := to.HasBlob(t.Context(), blob.Digest); err != nil || !has {
		t.Errorf("mounted blob: %v, %v", has, err)
	}
	missing := digest.FromString("nothing")
	if err := to.Mount(t.Context(), from, missing); failure.ReasonOf(err) != dvcr.ReasonNotFound {
		t.Errorf("missing blob: got %v, want %s", err, dvcr.ReasonNotFound)
	}
	if has, err := to.HasBlob(t.Context(), missing); err != nil || has {
		t.Errorf("missing blob: %v, %v", has, err)
	}
}

func TestDeleteTakesTagAway(t *testing.T) {
	p := dvcrtest.Start(t, dvcrtest.Options{}).Repository(t, "a/b")
	blob, err := push(t.Context(), start(t, p), bytes.NewReader(content(100)))
	if err != nil {
		t.Fatal(err)
	}
	a := dvcr.Artifact{Disk: blob, Format: "iso", VirtualBytes: 512, CDROM: true}
	pushed, err := p.Push(t.Context(), "v1", a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Push(t.Context(), "v2", a); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.Delete(t.Context(), "v1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := p.Get(t.Context(), "v1"); failure.ReasonOf(err) != dvcr.ReasonNotFound {
		t.Errorf("deleted tag: got %v, want %s", err, dvcr.ReasonNotFound)
	}
	if got, _, err := p.Get(t.Context(), "v2"); err != nil || got != a {
		t.Errorf("other tag: got %+v, %v", got, err)
	}
	for range 2 {
		if err := p.DeleteManifest(t.Context(), pushed); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := p.Get(t.Context(), "v2"); failure.ReasonOf(err) != dvcr.ReasonNotFound {
		t.Errorf("deleted manifest: got %v, want %s", err, dvcr.ReasonNotFound)
	}
}

func TestWrongPasswordIsTemporaryAndUntold(t *testing.T) {
	registry := dvcrtest.Start(t, dvcrtest.Options{Secure: true})
	registry.Options.Password = "hunter2"
	p := registry.Repository(t, "a/b")
	_, started := p.Start(t.Context())
	_, _, got := p.Get(t.Context(), "v1")
	for _, err := range []error{started, got} {
		if failure.ReasonOf(err) != dvcr.ReasonDenied || failure.IsTerminal(err) || bytes.Contains([]byte(err.Error()), []byte("hunter2")) {
			t.Errorf("got %v, want %s", err, dvcr.ReasonDenied)
		}
	}
}

func TestNewRefusesPlainHTTPToOtherMachines(t *testing.T) {
	if _, err := dvcr.New(dvcr.Options{Endpoint: "10.0.0.1:5000", PlainHTTP: true}); err == nil {
		t.Error("plain HTTP to 10.0.0.1 was accepted")
	}
}

// TestCancelAsksAgainWhileTheUploadMoves: a request whose sender left may store
// what it has between the question for the offset and the deletion.
func TestCancelAsksAgainWhileTheUploadMoves(t *testing.T) {
	var deletions atomic.Int64
	busy := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete && deletions.Add(1) < 3 {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
	p := dvcrtest.Start(t, dvcrtest.Options{Wrap: busy}).Repository(t, "a/b")
	u := start(t, p)
	if err := u.Append(t.Context(), bytes.NewReader(content(chunk)), chunk); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	c, err := u.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Cancel(t.Context(), c); err != nil || deletions.Load() != 3 {
		t.Fatalf("after %d deletions: %v", deletions.Load(), err)
	}
	if _, err := p.Resume(t.Context(), c); failure.ReasonOf(err) != dvcr.ReasonUploadLost {
		t.Errorf("the upload is still there: %v", err)
	}
}
