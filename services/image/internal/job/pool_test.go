package job_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/job"
	"orlop.dev/services/image/internal/source"
)

const (
	patience  = time.Minute
	diskBytes = 4 << 20
	chunk     = 256 << 10
)

// shop is a web server whose answers wait until they are let go, and a registry.
type shop struct {
	registry *dvcr.Registry
	staging  string
	url      string
	disk     []byte
	asked    chan string // path and range of each request

	mu     sync.Mutex
	status int
	gates  map[string]chan struct{}
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{
		registry: dvcrtest.Start(t, dvcrtest.Options{}).Client(t), staging: t.TempDir(),
		disk: bytes.Repeat([]byte("0123456789abcdef"), diskBytes/16), asked: make(chan string, 100), gates: map[string]chan struct{}{},
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	s.url = server.URL
	return s
}

// hold makes requests for path stop in the middle of the file until they are let
// go.
func (s *shop) hold(path string) (letGo func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gates[path] = gate
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.gates, path)
		close(gate)
	})
}

func (s *shop) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	status, gate := s.status, s.gates[r.URL.Path]
	s.mu.Unlock()
	s.asked <- r.URL.Path + " " + r.Header.Get("Range")
	if status != 0 {
		http.Error(w, "no", status)
		return
	}
	w.Header().Set("ETag", `"v1"`)
	http.ServeContent(w, r, "", time.Time{}, &held{Reader: bytes.NewReader(s.disk), gate: gate, ended: r.Context().Done()})
}

// held is a file that can't be read beyond its middle while its gate is shut.
type held struct {
	*bytes.Reader
	gate  chan struct{}
	ended <-chan struct{}
}

func (h *held) Read(p []byte) (int, error) {
	if at, _ := h.Seek(0, io.SeekCurrent); h.gate != nil && at >= diskBytes/2 {
		select {
		case <-h.gate:
		case <-h.ended:
			return 0, io.ErrUnexpectedEOF
		}
	}
	return h.Reader.Read(p)
}

// run runs a new pool until the test ends or stop is called.
func (s *shop) run(t *testing.T, parallel int) (pool *job.Pool, stop func()) {
	t.Helper()
	pool, err := job.New(job.Options{
		Registry: s.registry, StagingDir: s.staging, Parallel: parallel, ChunkBytes: chunk,
		Initial: time.Millisecond, Max: 10 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pool.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return pool, stop
}

// task is an import of a file, and a channel that tells its changes.
func (s *shop) task(uid, path string, version int32) (job.Task, <-chan struct{}) {
	changed := make(chan struct{}, 1)
	return job.Task{
		UID: uid, Version: version, Repository: "vi/default/" + uid, Tag: uid,
		Source: importer.HTTP(source.Options{
			URL: s.url + path, AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Retry: source.Retry{Attempts: 1, Initial: time.Millisecond, Max: time.Millisecond},
		}),
		Changed: func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		},
	}, changed
}

// await waits until an import's state is as wanted. Whoever has no state is gone.
func await(t *testing.T, pool *job.Pool, uid string, changed <-chan struct{}, want func(job.State, bool) bool) job.State {
	t.Helper()
	deadline := time.After(patience)
	for {
		state, found := pool.State(uid)
		if want(state, found) {
			return state
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("the state of %s stays %+v, %v", uid, state, found)
		}
	}
}

func in(stage job.Stage) func(job.State, bool) bool {
	return func(s job.State, found bool) bool { return found && s.Stage == stage }
}

func gone(_ job.State, found bool) bool { return !found }

func (s *shop) published(t *testing.T, uid string) bool {
	t.Helper()
	repository, err := s.registry.Repository("vi/default/" + uid)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = repository.Get(t.Context(), uid)
	if err != nil && failure.ReasonOf(err) != dvcr.ReasonNotFound {
		t.Fatal(err)
	}
	return err == nil
}

func (s *shop) nextRequest(t *testing.T) string {
	t.Helper()
	select {
	case asked := <-s.asked:
		return asked
	case <-time.After(patience):
		t.Fatal("no request came")
		return ""
	}
}

func TestNoMoreImportsRunThanMay(t *testing.T) {
	s := newShop(t)
	letGo := s.hold("/slow")
	pool, _ := s.run(t, 1)
	slow, slowChanged := s.task("slow", "/slow", 1)
	quick, quickChanged := s.task("quick", "/quick", 1)
	pool.Start(slow)
	await(t, pool, "slow", slowChanged, in(job.Running))
	pool.Start(quick)
	await(t, pool, "quick", quickChanged, in(job.Queued))
	letGo()
	await(t, pool, "slow", slowChanged, in(job.Done))
	await(t, pool, "quick", quickChanged, in(job.Done))
	if !s.published(t, "slow") || !s.published(t, "quick") {
		t.Error("an image is missing in the registry")
	}
}

func TestStartIsIdempotent(t *testing.T) {
	s := newShop(t)
	letGo := s.hold("/disk")
	pool, _ := s.run(t, 2)
	task, changed := s.task("a", "/disk", 1)
	pool.Start(task)
	await(t, pool, "a", changed, in(job.Running))
	if state := pool.Start(task); state.Stage != job.Running {
		t.Errorf("begun again: %+v", state)
	}
	letGo()
	await(t, pool, "a", changed, in(job.Done))
	if len(s.asked) != 1 {
		t.Errorf("the file was asked for %d times", len(s.asked))
	}
}

func TestFailuresThatMayPassAreTriedAgain(t *testing.T) {
	s := newShop(t)
	s.answer(http.StatusServiceUnavailable)
	pool, _ := s.run(t, 1)
	task, changed := s.task("a", "/disk", 1)
	pool.Start(task)
	state := await(t, pool, "a", changed, func(s job.State, _ bool) bool { return s.Err != nil })
	if failure.ReasonOf(state.Err) != source.ReasonUnavailable || state.Next.IsZero() {
		t.Errorf("state %+v", state)
	}
	s.answer(0)
	await(t, pool, "a", changed, in(job.Done))
}

func TestFailureForGoodIsKeptUntilTheWishChanges(t *testing.T) {
	s := newShop(t)
	s.answer(http.StatusNotFound)
	pool, _ := s.run(t, 1)
	task, changed := s.task("a", "/disk", 1)
	pool.Start(task)
	await(t, pool, "a", changed, in(job.Failed))
	if state := pool.Start(task); state.Stage != job.Failed || failure.ReasonOf(state.Err) != source.ReasonNotFound {
		t.Errorf("state %+v", state)
	}
	s.answer(0)
	again, changed := s.task("a", "/disk", 2)
	pool.Start(again)
	await(t, pool, "a", changed, in(job.Done))
}

func TestStopEndsAnImportAndCleanLeavesNothing(t *testing.T) {
	s := newShop(t)
	defer s.hold("/disk")()
	pool, _ := s.run(t, 1)
	task, changed := s.task("a", "/disk", 1)
	pool.Start(task)
	s.nextRequest(t)
	if pool.Stop("a") {
		await(t, pool, "a", changed, gone)
		t.Error("an import that ran was said to be over")
	}
	await(t, pool, "a", changed, gone)
	if !pool.Stop("a") {
		t.Error("what is gone can't be stopped")
	}
	for range 2 { // it may be repeated
		if err := pool.Clean(t.Context(), task); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(s.staging); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if s.published(t, "a") {
		t.Error("half an image was published")
	}
}

func TestOtherVersionReplacesAnImport(t *testing.T) {
	s := newShop(t)
	defer s.hold("/old")()
	pool, _ := s.run(t, 1)
	old, oldChanged := s.task("a", "/old", 1)
	pool.Start(old)
	s.nextRequest(t)
	task, changed := s.task("a", "/new", 2)
	if state := pool.Start(task); state.Stage != job.Stopping {
		t.Errorf("state %+v", state)
	}
	await(t, pool, "a", oldChanged, gone)
	pool.Start(task)
	await(t, pool, "a", changed, in(job.Done))
	if last, known := pool.Last("a"); !known || last.Version != 2 || !last.Published {
		t.Errorf("last imported was %+v, %v", last, known)
	}
}

// interrupt runs an import until it has a checkpoint to go on from, and stops.
func (s *shop) interrupt(t *testing.T, version int32) {
	t.Helper()
	letGo := s.hold("/disk")
	pool, stop := s.run(t, 1)
	task, _ := s.task("a", "/disk", version)
	pool.Start(task)
	s.nextRequest(t)
	deadline := time.After(patience)
	for !bytes.Contains(s.checkpoint(t), []byte(`"resumable":true`)) {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Fatal("no checkpoint was written")
		}
	}
	stop()
	letGo()
}

func (s *shop) checkpoint(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.staging, "a.json"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return text
}

func TestNextProcessGoesOnFromTheCheckpoint(t *testing.T) {
	s := newShop(t)
	s.interrupt(t, 1)
	if info, err := os.Stat(filepath.Join(s.staging, "a.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a checkpoint holds a secret: %v, %v", info.Mode(), err)
	}
	pool, _ := s.run(t, 1)
	task, changed := s.task("a", "/disk", 1)
	pool.Start(task)
	await(t, pool, "a", changed, in(job.Done))
	if asked := s.nextRequest(t); asked == "/disk " {
		t.Error("the file was read from its start again")
	}
}

func TestCheckpointOfAnotherVersionIsDropped(t *testing.T) {
	s := newShop(t)
	s.interrupt(t, 1)
	pool, _ := s.run(t, 1)
	task, changed := s.task("a", "/disk", 2)
	pool.Start(task)
	await(t, pool, "a", changed, in(job.Done))
	if asked := s.nextRequest(t); asked != "/disk " {
		t.Errorf("asked for %q: the rest of what may be another file", asked)
	}
}

func TestBrokenCheckpointBeginsAnew(t *testing.T) {
	s := newShop(t)
	if err := os.WriteFile(filepath.Join(s.staging, "a.json"), []byte(`{"version":1,"checkp`), 0o600); err != nil {
		t.Fatal(err)
	}
	pool, _ := s.run(t, 1)
	task, changed := s.task("a", "/disk", 1)
	pool.Start(task)
	await(t, pool, "a", changed, in(job.Done))
}
