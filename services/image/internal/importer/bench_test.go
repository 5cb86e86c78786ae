package importer_test

import (
	"context"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"orlop.dev/kit/durable"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/source"
)

// rounds is the least number of times that each side of a comparison runs.
const rounds = 3

// The import of a qcow2, as orlopd has it (a registry with TLS and a password,
// whose files are here) and with a registry elsewhere, beside a download of the
// same file.
func BenchmarkImport(b *testing.B) {
	image := madeImage(b, 1<<30, random())
	url := served(b, image)
	theirs := shell("curl -sfo $out "+url+" && sync $out", "")
	b.Run("beside curl", func(b *testing.B) { beside(b, image, url, true, theirs) })
	b.Run("by requests beside curl", func(b *testing.B) { beside(b, image, url, false, theirs) })
}

// A raw disk of 4 GiB, a quarter of it data.
func BenchmarkImportSparseRaw(b *testing.B) {
	raw := filepath.Join(b.TempDir(), "raw")
	file, err := os.Create(raw)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	data := random()
	const pieces, pieceBytes, diskBytes = 64, 16 << 20, 4 << 30
	for i := range int64(pieces) {
		section := io.NewOffsetWriter(file, i*diskBytes/pieces)
		if _, err := io.CopyN(section, data, pieceBytes); err != nil {
			b.Fatal(err)
		}
	}
	if err := file.Truncate(diskBytes); err != nil {
		b.Fatal(err)
	}
	beside(b, raw, served(b, raw), true, shell("cp --sparse=always $in $out && sync $out", raw))
}

func BenchmarkImportGzip(b *testing.B) {
	tool := "pigz"
	if _, err := exec.LookPath(tool); err != nil {
		tool = "gzip"
	}
	file := packedFile(b, madeImage(b, 512<<20, compressible()), tool+" -1")
	beside(b, file, served(b, file), true, shell(tool+" -dc $in > $out && sync $out", file))
}

func BenchmarkImportXZ(b *testing.B) {
	file := packedFile(b, madeImage(b, 256<<20, compressible()), "xz -0 -T0")
	beside(b, file, served(b, file), true, shell("xz -dc -T0 $in > $out && sync $out", file))
}

// beside runs an import and a command in turns, and reports how many times the
// command's median time the import's takes.
func beside(b *testing.B, file, url string, local bool, theirs func(b *testing.B, out string)) {
	b.Helper()
	stat, err := os.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(stat.Size())
	var ours, others []time.Duration
	round := func() {
		f := newFixtureAt(b, nil, dvcrtest.Options{Local: local, Secure: true, Root: scratch(b)})
		f.request.Source = importer.HTTP(source.Options{URL: url, AllowPrivate: loopback})
		// Checkpoints are durable, as those of the service are.
		f.request.Checkpoints = &onDisk{path: filepath.Join(f.staging, "checkpoint")}
		began := time.Now()
		if _, err := importer.New(importer.Options{StagingDir: f.staging}).Import(b.Context(), f.request); err != nil {
			b.Fatal(err)
		}
		ours = append(ours, time.Since(began))
		b.StopTimer()
		out := filepath.Join(scratch(b), "out")
		began = time.Now()
		theirs(b, out)
		others = append(others, time.Since(began))
		for _, path := range []string{out, f.registry.Root} {
			if err := os.RemoveAll(path); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
	}
	for b.Loop() {
		round()
	}
	b.StopTimer()
	for len(ours) < rounds {
		round()
		b.StopTimer()
	}
	b.ReportMetric(median(ours).Seconds()/median(others).Seconds(), "times-theirs")
	b.ReportMetric(median(ours).Seconds(), "s/import")
	b.ReportMetric(median(others).Seconds(), "s/theirs")
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// scratch is a new folder, all of them on one file system.
func scratch(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp(b.TempDir(), "")
	if err != nil {
		b.Fatal(err)
	}
	return dir
}

func shell(script, in string) func(*testing.B, string) {
	return func(b *testing.B, out string) {
		b.Helper()
		command := exec.CommandContext(b.Context(), "sh", "-c", script)
		command.Env = append(os.Environ(), "in="+in, "out="+out)
		command.Stderr = os.Stderr
		if err := command.Run(); err != nil {
			b.Skipf("%s: %v", script, err)
		}
	}
}

func random() io.Reader { return rand.NewChaCha8([32]byte{1}) }

// compressible is text of random numbers: half as large when packed.
func compressible() io.Reader { return hexadecimal{random()} }

type hexadecimal struct{ r io.Reader }

func (h hexadecimal) Read(p []byte) (int, error) {
	half := make([]byte, len(p)/2)
	n, err := h.r.Read(half)
	return hex.Encode(p, half[:n]), err
}

// madeImage is a qcow2 of a disk with that much data.
func madeImage(b *testing.B, size int64, data io.Reader) string {
	b.Helper()
	dir := b.TempDir()
	raw, image := filepath.Join(dir, "raw"), filepath.Join(dir, "image")
	file, err := os.Create(raw)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	if _, err := io.CopyN(file, data, size); err != nil {
		b.Fatal(err)
	}
	run(b, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
	if err := os.Remove(raw); err != nil {
		b.Fatal(err)
	}
	return image
}

func packedFile(b *testing.B, file, tool string) string {
	b.Helper()
	packed := filepath.Join(b.TempDir(), "packed")
	shell(tool+" -c $in > $out", file)(b, packed)
	return packed
}

func served(b *testing.B, file string) string {
	b.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeFile(w, r, file)
	}))
	b.Cleanup(server.Close)
	return server.URL + "/image"
}

// onDisk keeps checkpoints durable.
type onDisk struct {
	store
	path string
}

func (d *onDisk) Save(ctx context.Context, c importer.Checkpoint) error {
	if err := d.store.Save(ctx, c); err != nil {
		return err
	}
	return durable.WriteFile(d.path, d.text, 0o600)
}
