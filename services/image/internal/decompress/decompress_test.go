package decompress_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"testing"
	"testing/iotest"

	"orlop.dev/services/image/internal/decompress"
	"orlop.dev/services/image/internal/failure"
)

const noLimit = 1 << 40

// pack runs the real tool.
func pack(t testing.TB, data []byte, tool ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(tool[0]); err != nil {
		t.Skipf("%s is not installed", tool[0])
	}
	cmd := exec.Command(tool[0], tool[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", tool, err)
	}
	return out
}

func unpack(packed []byte, limit int64) ([]byte, error) {
	r, err := decompress.NewReader(bytes.NewReader(packed), decompress.Detect(packed), limit)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func sample(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{3}).Read(data[:size/2])
	return data
}

var tools = map[string][]string{
	"gzip":          {"gzip", "-1", "-c"},
	"xz":            {"xz", "-0", "-c"},
	"xz blocks":     {"xz", "-0", "-T2", "--block-size=100KiB", "-c"},
	"xz sha256":     {"xz", "-0", "--check=sha256", "-c"},
	"xz no check":   {"xz", "-0", "--check=none", "-c"},
	"xz x86 filter": {"xz", "--x86", "--lzma2=preset=0", "-c"},
	"xz 64 MiB":     {"xz", "-9", "-c"},
	"zstd":          {"zstd", "-1", "-c"},
	"zstd long 26":  {"zstd", "-1", "--long=26", "-c"},
}

func TestReaderUnpacksWhatToolsPack(t *testing.T) {
	data := sample(1 << 20)
	for name, tool := range tools {
		t.Run(name, func(t *testing.T) {
			packed := pack(t, data, tool...)
			got, err := unpack(packed, noLimit)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("got %d bytes, %v", len(got), err)
			}
			twice, err := unpack(append(bytes.Clone(packed), packed...), noLimit)
			if err != nil || len(twice) != 2*len(data) {
				t.Errorf("two streams in a row: got %d bytes, %v", len(twice), err)
			}
		})
	}
}

func TestReaderRefusesDamage(t *testing.T) {
	data := sample(1 << 20)
	for name, tool := range tools {
		if name == "xz no check" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			packed := pack(t, data, tool...)
			flipped := bytes.Clone(packed)
			flipped[len(flipped)/2] ^= 1
			for what, bad := range map[string][]byte{"cut": packed[:len(packed)/2], "cut at the end": packed[:len(packed)-2], "flipped": flipped} {
				if _, err := unpack(bad, noLimit); failure.ReasonOf(err) != decompress.ReasonCorrupt {
					t.Errorf("%s: got %v, want %s", what, err, decompress.ReasonCorrupt)
				}
			}
		})
	}
}

func TestReaderRefusesBombs(t *testing.T) {
	zeros := make([]byte, 4<<20)
	for name, tool := range tools {
		t.Run(name, func(t *testing.T) {
			got, err := unpack(pack(t, zeros, tool...), 1<<20)
			if failure.ReasonOf(err) != decompress.ReasonTooLarge || len(got) != 1<<20 {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if _, err := unpack(pack(t, zeros, tool...), int64(len(zeros))); err != nil {
				t.Errorf("at the limit: %v", err)
			}
		})
	}
}

// TestReaderRefusesLargeDictionaries also when they come late, and before it
// allocates them.
func TestReaderRefusesLargeDictionaries(t *testing.T) {
	data := sample(1 << 20)
	large := pack(t, data, "xz", "--lzma2=preset=0,dict=1GiB", "-c")
	small := pack(t, data, "xz", "-0", "-c")
	for name, packed := range map[string][]byte{
		"first": large,
		"later": append(bytes.Clone(small), large...),
		"zstd":  pack(t, make([]byte, 1<<20), "zstd", "-1", "--long=27", "-c"),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := unpack(packed, noLimit)
			runtime.ReadMemStats(&after)
			if failure.ReasonOf(err) != decompress.ReasonDictionary {
				t.Errorf("got %v, want %s", err, decompress.ReasonDictionary)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
				t.Errorf("%d bytes were allocated", grown)
			}
		})
	}
}

func TestReaderRefusesNestedAndUnknown(t *testing.T) {
	inner := pack(t, sample(1000), "gzip", "-c")
	if _, err := unpack(pack(t, inner, "xz", "-0", "-c"), noLimit); failure.ReasonOf(err) != decompress.ReasonNested {
		t.Errorf("gzip in xz: got %v", err)
	}
	if _, err := unpack([]byte("BZh91AY&SY"), noLimit); failure.ReasonOf(err) != decompress.ReasonUnsupported {
		t.Errorf("bzip2: got %v", err)
	}
	if got := decompress.Detect([]byte("QFI\xfb")); got != decompress.None {
		t.Errorf("qcow2 detected as %s", got)
	}
}

func TestReaderPassesErrorsOfStreamBelow(t *testing.T) {
	broken := errors.New("broken")
	packed := pack(t, sample(1<<20), "gzip", "-1", "-c")
	below := io.MultiReader(bytes.NewReader(packed[:len(packed)/2]), iotest.ErrReader(broken))
	r, err := decompress.NewReader(below, decompress.Gzip, noLimit)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}
