package importer_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"orlop.dev/services/image/internal/decompress"
	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/source"
)

const (
	diskBytes = 12 << 20
	chunk     = 1 << 20
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// rawDisk is a file with data at the start, in the middle and at the end.
func rawDisk(t testing.TB) string {
	t.Helper()
	disk := make([]byte, diskBytes)
	random := rand.NewChaCha8([32]byte{11})
	random.Read(disk[:2<<20])
	random.Read(disk[6<<20 : 7<<20])
	random.Read(disk[diskBytes-1000:])
	path := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	var stderr strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, stderr.String())
	}
	return out
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// converted is the disk in a format of qemu-img's.
func converted(t testing.TB, raw string, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	run(t, "qemu-img", append(append([]string{"convert", "-f", "raw"}, args...), raw, path)...)
	return read(t, path)
}

func packed(t testing.TB, data []byte, tool string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	level := "-1"
	if tool == "xz" {
		level = "-0"
	}
	return run(t, tool, level, "-c", path)
}

// server serves one file with ranges; cut, if set, says after how many bytes
// answer n (from 1) breaks off, negative for never.
type server struct {
	data   []byte
	etag   string
	cut    func(n int64) int
	asked  atomic.Int64
	served atomic.Int64
	ranges atomic.Int64
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := s.asked.Add(1)
	if r.Header.Get("Range") != "" {
		s.ranges.Add(1)
	}
	if s.etag != "" {
		w.Header().Set("ETag", s.etag)
	}
	left := -1
	if s.cut != nil {
		left = s.cut(n)
	}
	http.ServeContent(&cutting{w, left, &s.served}, r, "", time.Time{}, bytes.NewReader(s.data))
}

type cutting struct {
	http.ResponseWriter
	left   int
	served *atomic.Int64
}

func (c *cutting) Write(p []byte) (int, error) {
	if c.left >= 0 && len(p) > c.left {
		c.ResponseWriter.Write(p[:c.left])
		panic(http.ErrAbortHandler)
	}
	if c.left >= 0 {
		c.left -= len(p)
	}
	c.served.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// fixture is a registry, an importer and a file server.
type fixture struct {
	registry   *dvcrtest.Registry
	repository *dvcr.Repository
	importer   *importer.Importer
	staging    string
	server     *server
	request    importer.Request
}

func newFixture(t testing.TB, data []byte, wrap func(http.Handler) http.Handler) *fixture {
	t.Helper()
	return newFixtureAt(t, data, dvcrtest.Options{Wrap: wrap})
}

// bothWays runs a test with a registry that is elsewhere and with one whose
// files are here.
func bothWays(t *testing.T, test func(t *testing.T, registry dvcrtest.Options)) {
	t.Helper()
	for name, local := range map[string]bool{"by requests": false, "by files": true} {
		t.Run(name, func(t *testing.T) { test(t, dvcrtest.Options{Local: local}) })
	}
}

func newFixtureAt(t testing.TB, data []byte, o dvcrtest.Options) *fixture {
	t.Helper()
	registry := dvcrtest.Start(t, o)
	f := &fixture{
		registry: registry, repository: registry.Repository(t, "vi/default/test"),
		staging: t.TempDir(),
		server:  &server{data: data, etag: `"v1"`},
	}
	f.importer = importer.New(importer.Options{
		StagingDir: f.staging, ChunkBytes: chunk, ProgressEvery: time.Nanosecond,
		Attempts: 3, Initial: time.Millisecond, Max: 5 * time.Millisecond,
	})
	files := httptest.NewServer(f.server)
	t.Cleanup(files.Close)
	f.request = importer.Request{
		ID: "uid", Target: f.repository, Tag: "v1",
		Source: importer.HTTP(source.Options{
			URL: files.URL + "/disk", AllowPrivate: loopback,
			Retry: source.Retry{Attempts: 2, Initial: time.Millisecond, Max: time.Millisecond},
		}),
	}
	return f
}

// holds lets the real tool compare what is in the registry with the disk.
func (f *fixture) holds(t testing.TB, r importer.Result, raw string) {
	t.Helper()
	artifact, manifest, err := f.repository.Get(t.Context(), "v1")
	if err != nil || manifest != r.Digest || artifact.Disk != r.Disk {
		t.Fatalf("published %+v as %s, %v; want %+v", artifact, manifest, err, r)
	}
	data, err := io.ReadAll(io.NewSectionReader(f.repository.Open(t.Context(), r.Disk), 0, r.StoredBytes))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "back")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "compare", "-q", "-f", "raw", "-F", string(r.Format), raw, path)
	if r.Format == diskimage.QCOW2 {
		run(t, "qemu-img", "check", "-q", "-f", "qcow2", path)
	}
	if left, err := os.ReadDir(f.staging); err != nil || len(left) != 0 {
		t.Errorf("left in the staging directory: %v, %v", left, err)
	}
}

func sums(data []byte) importer.Checksum {
	m, s := md5.Sum(data), sha256.Sum256(data)
	return importer.Checksum{MD5: hex.EncodeToString(m[:]), SHA256: strings.ToUpper(hex.EncodeToString(s[:]))}
}

func TestImportOfEachFormatAndCompression(t *testing.T) {
	raw := rawDisk(t)
	bothWays(t, func(t *testing.T, registry dvcrtest.Options) {
		formats := map[diskimage.Format][]byte{
			diskimage.Raw:   read(t, raw),
			diskimage.QCOW2: converted(t, raw, "-O", "qcow2"),
			diskimage.VMDK:  converted(t, raw, "-O", "vmdk", "-o", "subformat=streamOptimized"),
			diskimage.VDI:   converted(t, raw, "-O", "vdi"),
		}
		tools := map[diskimage.Format][]string{
			diskimage.Raw:   {"", "gzip", "xz", "zstd"},
			diskimage.QCOW2: {"", "gzip", "xz"},
			diskimage.VMDK:  {"", "gzip"},
			diskimage.VDI:   {"", "zstd"},
		}
		for format, data := range formats {
			for _, tool := range tools[format] {
				t.Run(string(format)+" "+tool, func(t *testing.T) {
					file := data
					if tool != "" {
						file = packed(t, data, tool)
					}
					f := newFixtureAt(t, file, registry)
					f.request.Checksum = sums(file)
					var last importer.Progress
					f.request.Progress = func(p importer.Progress) { last = p }
					got, err := f.importer.Import(t.Context(), f.request)
					if err != nil {
						t.Fatal(err)
					}
					if got.VirtualBytes != diskBytes || got.SourceFormat != format || got.CDROM {
						t.Errorf("got %+v", got)
					}
					if want := (importer.Progress{ReadBytes: int64(len(file)), TotalBytes: int64(len(file))}); last.ReadBytes != want.ReadBytes || last.TotalBytes != want.TotalBytes {
						t.Errorf("last progress %+v, want %+v", last, want)
					}
					if format == diskimage.Raw && got.StoredBytes > 5<<20 {
						t.Errorf("%d bytes stored for 3 MiB of data", got.StoredBytes)
					}
					f.holds(t, got, raw)
				})
			}
		}
	})
}

func TestImportOfDisc(t *testing.T) {
	iso := make([]byte, 40*2048)
	copy(iso[16*2048:], "\x01CD001\x01")
	copy(iso[17*2048:], "\xffCD001\x01")
	f := newFixture(t, iso, nil)
	got, err := f.importer.Import(t.Context(), f.request)
	if err != nil || !got.CDROM || got.Format != diskimage.ISO || got.MediaType != dvcr.LayerTypePrefix+"iso" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestImportRefusesBadInput(t *testing.T) {
	raw := rawDisk(t)
	qcow2 := converted(t, raw, "-O", "qcow2")
	backing := bytes.Clone(qcow2)
	backing[15] = 1
	cases := []struct {
		name     string
		data     []byte
		checksum importer.Checksum
		limit    int64
		reason   failure.Reason
	}{
		{name: "empty", data: nil, reason: diskimage.ReasonEmpty},
		{name: "backing file", data: backing, reason: diskimage.ReasonBackingFile},
		{name: "cut", data: qcow2[:len(qcow2)/2], reason: diskimage.ReasonTruncated},
		{name: "too large", data: qcow2, limit: diskBytes - 1, reason: diskimage.ReasonTooLarge},
		{name: "raw too large", data: read(t, raw), limit: diskBytes - 1, reason: diskimage.ReasonTooLarge},
		{name: "wrong checksum", data: qcow2, checksum: importer.Checksum{MD5: strings.Repeat("0", 32)}, reason: importer.ReasonChecksum},
		{name: "packed twice", data: packed(t, packed(t, qcow2, "gzip"), "xz"), reason: decompress.ReasonNested},
		{name: "damaged gzip", data: packed(t, qcow2, "gzip")[:1<<20], reason: decompress.ReasonCorrupt},
		{name: "bomb", data: packed(t, make([]byte, 16<<20), "gzip"), limit: 1 << 20, reason: diskimage.ReasonTooLarge},
		{name: "web page", data: []byte("<html>not found</html>"), reason: diskimage.ReasonUnsupportedFormat},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, c.data, nil)
			f.request.Checksum = c.checksum
			f.request.Limits.VirtualBytes = c.limit
			_, err := f.importer.Import(t.Context(), f.request)
			if failure.ReasonOf(err) != c.reason || !failure.IsTerminal(err) {
				t.Errorf("got %v (%s), want %s", err, failure.ReasonOf(err), c.reason)
			}
			if _, _, err := f.repository.Get(t.Context(), "v1"); failure.ReasonOf(err) != dvcr.ReasonNotFound {
				t.Errorf("published all the same: %v", err)
			}
			if left, err := os.ReadDir(f.staging); err != nil || len(left) != 0 {
				t.Errorf("left in the staging directory: %v, %v", left, err)
			}
		})
	}
}

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

// TestImportOutlastsRegistry that answers every third request with 503.
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
