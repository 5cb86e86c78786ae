package importer_test

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
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

	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
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
	address    string // of the server
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
	f.address = files.URL
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
