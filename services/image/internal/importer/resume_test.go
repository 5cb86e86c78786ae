package importer_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/importer"
)

// store keeps a checkpoint as a process would, and can end that process.
type store struct {
	text []byte
	// dies, if set, is asked at each save whether the process is killed there.
	dies  func(c importer.Checkpoint) bool
	saves int
}

var errKilled = errors.New("killed")

func (s *store) Load(context.Context) (c importer.Checkpoint, err error) {
	if s.text != nil {
		err = json.Unmarshal(s.text, &c)
	}
	return c, err
}

func (s *store) Save(_ context.Context, c importer.Checkpoint) (err error) {
	if s.text, err = json.Marshal(c); err != nil {
		return err
	}
	s.saves++
	if s.dies != nil && s.dies(c) {
		return errKilled
	}
	return nil
}

func (s *store) Clear(context.Context) error {
	s.text = nil
	return nil
}

// TestImportGoesOnAfterEachKill ends the process at every checkpoint in turn.
func TestImportGoesOnAfterEachKill(t *testing.T) {
	raw := rawDisk(t)
	bothWays(t, func(t *testing.T, registry dvcrtest.Options) {
		for name, data := range map[string][]byte{"qcow2": converted(t, raw, "-O", "qcow2"), "raw": read(t, raw)} {
			t.Run(name, func(t *testing.T) {
				f := newFixtureAt(t, data, registry)
				f.request.Checksum = sums(data)
				s := &store{dies: func(importer.Checkpoint) bool { return true }}
				f.request.Checkpoints = s
				var got importer.Result
				for {
					before := s.saves
					var err error
					if got, err = f.importer.Import(t.Context(), f.request); err == nil {
						break
					}
					if !errors.Is(err, errKilled) {
						t.Fatal(err)
					}
					if before == 0 {
						// The first save only names the upload: let it pass the
						// next time.
						s.dies = func(c importer.Checkpoint) bool { return c.Resumable }
					}
					if s.saves > 100 {
						t.Fatal("no end")
					}
				}
				f.holds(t, got, raw)
				if s.text != nil {
					t.Error("the checkpoint is still there")
				}
				// Each run reads ahead at most what the sockets hold.
				if f.server.ranges.Load() < 2 {
					t.Errorf("%d ranges asked for", f.server.ranges.Load())
				}
			})
		}
	})
}

func TestImportOfPackedStartsAgainAfterKill(t *testing.T) {
	raw := rawDisk(t)
	bothWays(t, func(t *testing.T, registry dvcrtest.Options) {
		f := newFixtureAt(t, packed(t, converted(t, raw, "-O", "qcow2"), "gzip"), registry)
		s := &store{dies: func(importer.Checkpoint) bool { return true }}
		f.request.Checkpoints = s
		if _, err := f.importer.Import(t.Context(), f.request); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		s.dies = nil
		got, err := f.importer.Import(t.Context(), f.request)
		if err != nil {
			t.Fatal(err)
		}
		f.holds(t, got, raw)
	})
}

func TestImportBeginsAnewWhenSourceChangedMeanwhile(t *testing.T) {
	raw := rawDisk(t)
	bothWays(t, func(t *testing.T, registry dvcrtest.Options) {
		data := converted(t, raw, "-O", "qcow2")
		for _, lost := range []string{"source", "upload", "staging"} {
			t.Run(lost, func(t *testing.T) {
				file := data
				if lost == "staging" {
					file = read(t, raw)
				}
				f := newFixtureAt(t, file, registry)
				s := &store{dies: func(c importer.Checkpoint) bool { return c.Offset > 1<<20 }}
				f.request.Checkpoints = s
				if _, err := f.importer.Import(t.Context(), f.request); !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				s.dies = nil
				switch lost {
				case "source":
					f.server.etag = `"v2"`
				case "upload":
					c, _ := s.Load(t.Context())
					if err := f.repository.Cancel(t.Context(), *c.Upload); err != nil {
						t.Fatal(err)
					}
				case "staging":
					if err := os.Remove(filepath.Join(f.staging, "uid.qcow2")); err != nil {
						t.Fatal(err)
					}
				}
				got, err := f.importer.Import(t.Context(), f.request)
				if err != nil {
					t.Fatal(err)
				}
				f.holds(t, got, raw)
			})
		}
	})
}

func TestImportOutlastsBrokenConnections(t *testing.T) {
	raw := rawDisk(t)
	bothWays(t, func(t *testing.T, registry dvcrtest.Options) {
		data := converted(t, raw, "-O", "qcow2")
		f := newFixtureAt(t, data, registry)
		f.server.cut = func(n int64) int {
			if n > 3 {
				return -1
			}
			return 700_000
		}
		f.request.Checksum = sums(data)
		got, err := f.importer.Import(t.Context(), f.request)
		if err != nil {
			t.Fatal(err)
		}
		f.holds(t, got, raw)
		if f.server.ranges.Load() != 3 {
			t.Errorf("%d ranges asked for, want 3", f.server.ranges.Load())
		}
	})
}

// TestImportOutlastsRegistry that answers every third request with 503, and some
// with 429.
func TestImportOutlastsRegistry(t *testing.T) {
	raw := rawDisk(t)
	for name, data := range map[string][]byte{"qcow2": converted(t, raw, "-O", "qcow2"), "raw": read(t, raw)} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int64
			f := newFixture(t, data, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodPatch && requests.Add(1)%3 == 0 {
						w.WriteHeader(http.StatusServiceUnavailable)
						return
					}
					if r.Method == http.MethodPatch && requests.Load()%5 == 0 {
						w.WriteHeader(http.StatusTooManyRequests)
						return
					}
					h.ServeHTTP(w, r)
				})
			})
			got, err := f.importer.Import(t.Context(), f.request)
			if err != nil {
				t.Fatal(err)
			}
			f.holds(t, got, raw)
		})
	}
}

func TestImportGivesUpOnDeadRegistryForNow(t *testing.T) {
	f := newFixture(t, converted(t, rawDisk(t), "-O", "qcow2"), func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	})
	_, err := f.importer.Import(t.Context(), f.request)
	if failure.ReasonOf(err) != dvcr.ReasonUnavailable || failure.IsTerminal(err) {
		t.Errorf("got %v, want %s", err, dvcr.ReasonUnavailable)
	}
}

func TestForgetLeavesNothing(t *testing.T) {
	raw := rawDisk(t)
	bothWays(t, func(t *testing.T, registry dvcrtest.Options) {
		f := newFixtureAt(t, read(t, raw), registry)
		s := &store{dies: func(c importer.Checkpoint) bool { return c.Upload != nil }}
		f.request.Checkpoints = s
		if _, err := f.importer.Import(t.Context(), f.request); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		c, err := s.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := f.importer.Forget(t.Context(), f.request); err != nil {
				t.Fatal(err)
			}
		}
		if left, err := os.ReadDir(f.staging); err != nil || len(left) != 0 || s.text != nil {
			t.Errorf("left: %v, %v, %s", left, err, s.text)
		}
		if _, err := f.repository.Resume(t.Context(), *c.Upload); failure.ReasonOf(err) != dvcr.ReasonUploadLost {
			t.Errorf("the upload is still there: %v", err)
		}
	})
}
