package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/serve"
	"orlop.dev/kit/serve/servetest"
)

const (
	someETag  = "0123456789abcdef0123456789abcdef"
	pieceSize = 100_000
)

// giver is a disk service with one disk, whose downloads break off.
type giver struct {
	diskv1.UnimplementedDiskExportServiceServer

	mu      sync.Mutex
	content []byte
	etag    string
	breaks  int // how many streams break yet
	offsets []int64
	lies    bool
}

func (g *giver) told() *diskv1.DiskExport {
	return &diskv1.DiskExport{Namespace: "default", Name: "data", Format: "raw", SizeBytes: int64(len(g.content)), Etag: g.etag}
}

func (g *giver) digest() string {
	sum := sha256.Sum256(g.content)
	if g.lies {
		sum[0]++
	}
	return hex.EncodeToString(sum[:])
}

func (g *giver) DescribeDiskExport(context.Context, *diskv1.DescribeDiskExportRequest) (*diskv1.DiskExport, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.told(), nil
}

func (g *giver) DigestDiskExport(context.Context, *diskv1.DescribeDiskExportRequest) (*diskv1.DiskExport, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	told := g.told()
	told.Sha256 = g.digest()
	return told, nil
}

func (g *giver) ReadDiskExport(r *diskv1.ReadDiskExportRequest, stream grpc.ServerStreamingServer[diskv1.ReadDiskExportResponse]) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.offsets = append(g.offsets, r.GetOffset())
	if r.GetEtag() != g.etag {
		return fault.New(fault.Stale, "DiskChanged", "it was written to")
	}
	if err := stream.Send(&diskv1.ReadDiskExportResponse{Piece: &diskv1.ReadDiskExportResponse_File{File: g.told()}}); err != nil {
		return err
	}
	for at := int(r.GetOffset()); at < len(g.content); {
		if g.breaks > 0 && at > int(r.GetOffset()) {
			g.breaks--
			return fault.New(fault.Transient, "ServerStopping", "the server is stopping")
		}
		piece := g.content[at:min(at+pieceSize, len(g.content))]
		message := &diskv1.ReadDiskExportResponse{Piece: &diskv1.ReadDiskExportResponse_Data{Data: piece}}
		if len(bytes.Trim(piece, "\x00")) == 0 {
			message.Piece = &diskv1.ReadDiskExportResponse_ZeroBytes{ZeroBytes: int64(len(piece))}
		}
		if err := stream.Send(message); err != nil {
			return err
		}
		at += len(piece)
	}
	if r.GetOffset() > 0 {
		return nil
	}
	return stream.Send(&diskv1.ReadDiskExportResponse{Piece: &diskv1.ReadDiskExportResponse_Sha256{Sha256: g.digest()}})
}

// downloadFrom prepares the download of vd/data.
func downloadFrom(t *testing.T, g *giver) *downloading {
	t.Helper()
	g.etag = someETag
	conn, _ := servetest.Host(t, serve.Part{Register: func(r grpc.ServiceRegistrar) error {
		diskv1.RegisterDiskExportServiceServer(r, g)
		return nil
	}})
	return &downloading{
		path: filepath.Join(t.TempDir(), "data.raw"), format: "raw", timeout: time.Minute,
		service: diskv1.NewDiskExportServiceClient(conn), disk: objectName{"default", "data"}, bar: newBar(new(bytes.Buffer), "vd/data"),
	}
}

// someDisk has zeros in its middle.
func someDisk() []byte {
	disk := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	clear(disk[300_000:900_000])
	return disk
}

// want fails unless the file is the disk, and nothing else is there.
func (d *downloading) want(t *testing.T, content []byte) {
	t.Helper()
	got, err := os.ReadFile(d.path)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("the file has %d bytes and differs, %v", len(got), err)
	}
	d.wantFiles(t, 1)
}

func (d *downloading) wantFiles(t *testing.T, count int) {
	t.Helper()
	if files, err := os.ReadDir(filepath.Dir(d.path)); err != nil || len(files) != count {
		t.Errorf("there are %v, %v", files, err)
	}
}

func TestDownloadGoesOnAfterEachBreak(t *testing.T) {
	g := &giver{content: someDisk(), breaks: 2}
	d := downloadFrom(t, g)
	sum, err := d.run(t.Context())
	if err != nil || sum != g.digest() {
		t.Fatalf("%s, %v", sum, err)
	}
	d.want(t, g.content)
	if len(g.offsets) != 3 || g.offsets[0] != 0 || g.offsets[1] == 0 || g.offsets[2] <= g.offsets[1] {
		t.Errorf("the streams began at %v", g.offsets)
	}
}

func TestDownloadGoesOnWithWhatAnEarlierOneFetched(t *testing.T) {
	g := &giver{content: someDisk()}
	d := downloadFrom(t, g)
	for name, n := range map[string]int{
		".fedcba98765432100123456789abcdef.partial": 1000, // of another version
		"." + someETag + ".partial":                 pieceSize,
	} {
		if err := os.WriteFile(d.path+name, g.content[:n], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.want(t, g.content)
	if len(g.offsets) != 1 || g.offsets[0] != pieceSize {
		t.Errorf("the streams began at %v", g.offsets)
	}
}

func TestDownloadOfAnotherContentIsRefused(t *testing.T) {
	g := &giver{content: someDisk(), lies: true}
	d := downloadFrom(t, g)
	if _, err := d.run(t.Context()); !errors.Is(err, errWrongDigest) {
		t.Errorf("it says %v", err)
	}
	d.wantFiles(t, 0)
}

func TestDownloadReplacesAFileOnlyIfAsked(t *testing.T) {
	g := &giver{content: someDisk()}
	d := downloadFrom(t, g)
	if err := os.WriteFile(d.path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.run(t.Context()); !errors.Is(err, errFileExists) {
		t.Fatalf("it says %v", err)
	}
	d.force = true
	if _, err := d.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.want(t, g.content)
}

func TestDownloadedDiskIsNamedAsForKubectl(t *testing.T) {
	c := &client{namespace: "default"}
	for argument, want := range map[string]string{
		"vd/data": "default/data", "vdsnapshot/data": "default/data", "VirtualDisk/data.project": "project/data", "vm/data": "", "data": "", "vd/": "",
	} {
		disk, err := c.parseExport(argument)
		if (err == nil) != (want != "") || want != "" && disk.String() != want {
			t.Errorf("%s is %v, %v", argument, disk, err)
		}
	}
}

func TestTreeIsReadable(t *testing.T) {
	out := new(strings.Builder)
	err := printTrees(out, []*diskv1.DiskTree{
		{Name: "root", Parts: []*diskv1.DiskPart{
			{Kind: diskv1.DiskPartKind_Disk, Format: "qcow2", VirtualBytes: 10 << 30, OwnBytes: 3 << 20},
			{Kind: diskv1.DiskPartKind_Layer, Id: "daily", Format: "qcow2", VirtualBytes: 10 << 30, OwnBytes: 1 << 20, Kept: true, SharedWith: []string{"copy"}},
			{Kind: diskv1.DiskPartKind_Image, Id: "sha256:0123456789abcdef", Format: "raw", OwnBytes: 5 << 20, SharedWith: []string{"copy"}, SharedElsewhere: 2},
		}},
		{Name: "new"},
	})
	const want = `DISK                         FORMAT  SIZE      OWN      SHARED WITH
root                         qcow2   10.0 GiB  3.0 MiB  
└─ layer daily               qcow2   10.0 GiB  1.0 MiB  copy; kept
   └─ image 0123456789ab     raw               5.0 MiB  copy, 2 elsewhere
new                                                     (not made yet)
`
	if err != nil || strings.ReplaceAll(out.String(), " ", "") != strings.ReplaceAll(want, " ", "") {
		t.Errorf("got\n%s, %v", out, err)
	}
}
