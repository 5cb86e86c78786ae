package containerimage_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"orlop.dev/services/image/internal/containerimage"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/source"
)

// layer is one of an image, as it is stored.
type layer struct {
	mediaType string
	data      []byte
}

// entry is one of an archive.
type entry struct {
	name string
	kind byte
	data []byte
	link string
}

func file(name string, data []byte) entry { return entry{name: name, kind: tar.TypeReg, data: data} }

func archive(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Typeflag: e.kind, Size: int64(len(e.data)), Linkname: e.link, Mode: 0o644}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func plain(t *testing.T, entries ...entry) layer {
	return layer{v1.MediaTypeImageLayer, archive(t, entries...)}
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// shop is a real registry, and the ways to fill it.
type shop struct {
	*dvcrtest.Registry
	client *dvcr.Registry
}

func open(t *testing.T, o dvcrtest.Options) *shop {
	t.Helper()
	registry := dvcrtest.Start(t, o)
	return &shop{Registry: registry, client: registry.Client(t)}
}

// manifest stores a document under a tag or its digest.
func (s *shop) manifest(t *testing.T, version, mediaType string, document any) v1.Descriptor {
	t.Helper()
	text, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	if version == "" {
		version = digest.FromBytes(text).String()
	}
	target := "http://" + s.Registry.Options.Endpoint + "/v2/disks/ubuntu/manifests/" + version
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, target, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", mediaType)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(response.Body)
		t.Fatalf("manifest: %s %s", response.Status, text)
	}
	return v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
}

// push stores an image under a tag, and returns what a list would say of it.
func (s *shop) push(t *testing.T, tag string, layers ...layer) v1.Descriptor {
	t.Helper()
	config := s.Put(t, "disks/ubuntu", []byte("{}"))
	document := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: config.Digest, Size: config.Size},
	}
	for _, l := range layers {
		blob := s.Put(t, "disks/ubuntu", l.data)
		document.Layers = append(document.Layers, v1.Descriptor{MediaType: l.mediaType, Digest: blob.Digest, Size: blob.Size})
	}
	return s.manifest(t, tag, v1.MediaTypeImageManifest, document)
}

// options are those by which tests read the image with a tag.
func (s *shop) options(tag string) containerimage.Options {
	return containerimage.Options{
		Image: s.Registry.Options.Endpoint + "/disks/ubuntu" + tag, MaxBytes: 64 << 20,
		HTTP: source.Options{
			AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Retry:        source.Retry{Attempts: 3, Initial: time.Millisecond, Max: 10 * time.Millisecond},
		},
	}
}

// pull reads the disk of an image.
func pull(ctx context.Context, o containerimage.Options) ([]byte, int64, error) {
	stream, err := containerimage.New(o).Open(ctx, 0, source.Validator{})
	if err != nil {
		return nil, 0, err
	}
	defer stream.Close()
	data, err := io.ReadAll(stream)
	return data, stream.Size(), err
}

func wantDisk(t *testing.T, o containerimage.Options, want []byte) {
	t.Helper()
	data, size, err := pull(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(data, want) || size != int64(len(want)) {
		t.Errorf("got %d bytes of %d, want the %d of the disk", len(data), size, len(want))
	}
}

func wantReason(t *testing.T, err error, reason failure.Reason, terminal bool) {
	t.Helper()
	if failure.ReasonOf(err) != reason || failure.IsTerminal(err) != terminal {
		t.Errorf("got %v (%s, terminal %t), want %s, terminal %t", err, failure.ReasonOf(err), failure.IsTerminal(err), reason, terminal)
	}
	if _, ok := errors.AsType[*containerimage.PullError](err); !ok {
		t.Errorf("%v isn't marked as one of pulling", err)
	}
}

// disk is some data that can't be packed.
func disk(t *testing.T, bytes int) []byte {
	t.Helper()
	data := make([]byte, bytes)
	rand.Read(data)
	return data
}

func TestDiskIsFoundInTheLayers(t *testing.T) {
	s := open(t, dvcrtest.Options{})
	want, other := disk(t, 300<<10), disk(t, 64<<10)
	base := plain(t, file("etc/passwd", other), entry{name: "disk", kind: tar.TypeSymlink, link: "etc"})
	for name, layers := range map[string][]layer{
		"plain":                    {plain(t, file("disk/disk.img", want))},
		"gzip":                     {{v1.MediaTypeImageLayerGzip, gzipped(t, archive(t, file("disk/disk.img", want)))}},
		"zstd":                     {{v1.MediaTypeImageLayerZstd, zstandard(t, archive(t, file("disk/disk.img", want)))}},
		"a wrong media type":       {{v1.MediaTypeImageLayerGzip, archive(t, file("disk/disk.img", want))}},
		"an absolute path":         {plain(t, file("/disk/disk.img", want))},
		"a path from here":         {plain(t, entry{name: "./disk/", kind: tar.TypeDir}, file("./disk/disk.img", want))},
		"deeper":                   {plain(t, file("disk/images/disk.img", want))},
		"among other files":        {plain(t, file("diskette", other), file("disk/disk.img", want), file("etc/hosts", other))},
		"above a base":             {plain(t, file("etc/passwd", other)), plain(t, file("disk/disk.img", want))},
		"below other layers":       {plain(t, file("disk/disk.img", want)), plain(t, file("etc/passwd", other))},
		"replaced":                 {plain(t, file("disk/disk.img", other)), plain(t, file("disk/disk.img", want))},
		"instead of another":       {plain(t, file("disk/old.img", other)), plain(t, file("disk/.wh.old.img", nil), file("disk/new.img", want))},
		"in an opaque directory":   {plain(t, file("disk/old.img", other)), plain(t, file("disk/.wh..wh..opq", nil), file("disk/new.img", want))},
		"its directory taken away": {plain(t, file("disk/old.img", other)), plain(t, file(".wh.disk", nil)), plain(t, file("disk/new.img", want))},
		"a link that is hidden":    {base, plain(t, file(".wh.disk", nil)), plain(t, file("disk/disk.img", want))},
		"bare":                     {{dvcr.LayerTypePrefix + "qcow2", want}},
	} {
		t.Run(name, func(t *testing.T) {
			tag := strings.ReplaceAll(name, " ", "-")
			pushed := s.push(t, tag, layers...)
			wantDisk(t, s.options(":"+tag), want)
			wantDisk(t, s.options("@"+pushed.Digest.String()), want)
		})
	}
}

func TestImagesThatAreNoSourceAreRefused(t *testing.T) {
	s := open(t, dvcrtest.Options{})
	data := disk(t, 64<<10)
	packed := gzipped(t, data)
	for name, c := range map[string]struct {
		layers []layer
		reason failure.Reason
	}{
		"no layer":            {nil, containerimage.ReasonNoDisk},
		"no disk":             {[]layer{plain(t, file("etc/passwd", data))}, containerimage.ReasonNoDisk},
		"outside":             {[]layer{plain(t, file("disks/disk.img", data))}, containerimage.ReasonNoDisk},
		"a file named disk":   {[]layer{plain(t, file("disk", data))}, containerimage.ReasonNoDisk},
		"taken away":          {[]layer{plain(t, file("disk/a", data)), plain(t, file("disk/.wh.a", nil))}, containerimage.ReasonNoDisk},
		"two":                 {[]layer{plain(t, file("disk/a", data), file("disk/b", data))}, containerimage.ReasonTwoDisks},
		"two in two layers":   {[]layer{plain(t, file("disk/a", data)), plain(t, file("disk/b", data))}, containerimage.ReasonTwoDisks},
		"a symbolic link":     {[]layer{plain(t, entry{name: "disk/a", kind: tar.TypeSymlink, link: "/etc/shadow"})}, containerimage.ReasonNotAFile},
		"a hard link":         {[]layer{plain(t, file("a", data), entry{name: "disk/a", kind: tar.TypeLink, link: "a"})}, containerimage.ReasonNotAFile},
		"the directory links": {[]layer{plain(t, entry{name: "disk", kind: tar.TypeSymlink, link: "/"})}, containerimage.ReasonNotAFile},
		"a device":            {[]layer{plain(t, entry{name: "disk/a", kind: tar.TypeChar})}, containerimage.ReasonNotAFile},
		"upwards":             {[]layer{plain(t, file("disk/../../etc/a", data))}, containerimage.ReasonPath},
		"upwards afterwards":  {[]layer{plain(t, file("disk/a", data), file("../a", data))}, containerimage.ReasonPath},
		"packed twice": {[]layer{{v1.MediaTypeImageLayerGzip, gzipped(t, archive(t, file("disk/a.gz", packed)))}},
			"NestedCompression"},
		"a layer packed twice": {[]layer{{v1.MediaTypeImageLayerGzip, gzipped(t, packed)}}, "NestedCompression"},
		"too large":            {[]layer{plain(t, file("disk/a", make([]byte, 65<<20)))}, "UnpackedSizeTooLarge"},
		"a bomb":               {[]layer{{v1.MediaTypeImageLayerGzip, gzipped(t, archive(t, file("a", make([]byte, 80<<20))))}}, "UnpackedSizeTooLarge"},
		"no archive":           {[]layer{{v1.MediaTypeImageLayer, data}}, containerimage.ReasonLayer},
		"half an archive":      {[]layer{{v1.MediaTypeImageLayer, archive(t, file("disk/a", data))[:32<<10]}}, containerimage.ReasonLayer},
		"half a gzip":          {[]layer{{v1.MediaTypeImageLayerGzip, gzipped(t, archive(t, file("disk/a", data)))[:32<<10]}}, "CorruptCompression"},
		"encrypted":            {[]layer{{v1.MediaTypeImageLayerGzip + "+encrypted", packed}}, containerimage.ReasonManifest},
		"a bare disk and more": {[]layer{{dvcr.LayerTypePrefix + "qcow2", data}, plain(t, file("a", data))}, containerimage.ReasonManifest},
	} {
		t.Run(name, func(t *testing.T) {
			tag := strings.ReplaceAll(name, " ", "-")
			s.push(t, tag, c.layers...)
			_, _, err := pull(t.Context(), s.options(":"+tag))
			wantReason(t, err, c.reason, true)
		})
	}
}

func TestListGivesWhatIsForTheGuests(t *testing.T) {
	s := open(t, dvcrtest.Options{})
	want := disk(t, 10<<10)
	amd64 := s.push(t, "", plain(t, file("disk/a", want)))
	arm64 := s.push(t, "", plain(t, file("disk/a", disk(t, 10))))
	amd64.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
	arm64.Platform = &v1.Platform{OS: "linux", Architecture: "arm64"}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	index.Manifests = []v1.Descriptor{arm64, amd64}
	s.manifest(t, "both", v1.MediaTypeImageIndex, index)
	wantDisk(t, s.options(":both"), want)

	index.Manifests = index.Manifests[:1]
	s.manifest(t, "arm64", v1.MediaTypeImageIndex, index)
	_, _, err := pull(t.Context(), s.options(":arm64"))
	wantReason(t, err, containerimage.ReasonPlatform, true)
}

func TestBytesAreHeldToTheirDigest(t *testing.T) {
	s := open(t, dvcrtest.Options{})
	good := archive(t, file("disk/a", disk(t, 64<<10)))
	s.push(t, "good", layer{v1.MediaTypeImageLayer, good})
	hex := digest.FromBytes(good).Encoded()
	path := filepath.Join(s.Root, "docker/registry/v2/blobs/sha256", hex[:2], hex, "data")
	for name, change := range map[string]func([]byte) []byte{
		"another byte": func(b []byte) []byte { b[2000] ^= 1; return b },
		"less":         func(b []byte) []byte { return b[:len(b)-1024] },
		"more":         func(b []byte) []byte { return append(b, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, change(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, _, err := pull(t.Context(), s.options(":good"))
			wantReason(t, err, containerimage.ReasonDigest, true)
		})
	}
}

func TestReferencesThatAreNoneAreRefused(t *testing.T) {
	for _, image := range []string{"", "UPPER/case", "127.0.0.1:5000/a:b:c", "https://127.0.0.1/a", "a@sha256:1"} {
		_, _, err := pull(t.Context(), containerimage.Options{Image: image})
		wantReason(t, err, containerimage.ReasonInvalidReference, true)
	}
}

// authority is the certificate to trust a secure registry by.
func (s *shop) authority(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.Registry.Options.CertDir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
