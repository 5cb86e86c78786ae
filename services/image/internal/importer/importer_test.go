package importer_test

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"orlop.dev/services/image/internal/decompress"
	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/importer"
)

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
