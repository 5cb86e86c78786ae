package export_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"
	"orlop.dev/kit/serve/servetest"
	"orlop.dev/services/disk/internal/export"
	"orlop.dev/services/disk/internal/layer"
)

const mib = 1 << 20

var key = resource.Key{Namespace: "default", Name: "data"}

// house is one disk with real layers, and the service that exports it.
type house struct {
	t      *testing.T
	disks  *resource.Collection[*diskv1.VirtualDisk]
	store  *layer.Store
	uid    string
	client diskv1.DiskExportServiceClient
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if output, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, output)
	}
}

func newHouse(t *testing.T, patience time.Duration) *house {
	t.Helper()
	if _, err := exec.LookPath("qemu-storage-daemon"); err != nil {
		t.Skip("qemu-utils is not installed: make setup installs it")
	}
	k := kind.Must(&diskv1.VirtualDisk{})
	disks, err := resource.NewCollection[*diskv1.VirtualDisk](etcdtest.Start(t), "/disk", k, resource.Options{Logger: servetest.Quiet()})
	check(t, err)
	store, err := layer.Open(t.TempDir(), servetest.Quiet())
	check(t, err)
	service := export.OfDisks(disks, store, admit, export.Options{Patience: patience, Logger: servetest.Quiet()})
	conn, _ := servetest.Host(t, serve.Part{
		Name: "export", Ready: disks.WaitSynced,
		Register: func(r grpc.ServiceRegistrar) error {
			diskv1.RegisterDiskExportServiceServer(r, service)
			return nil
		},
		Run: func(ctx context.Context) error {
			group, ctx := errgroup.WithContext(ctx)
			group.Go(func() error { return disks.Run(ctx) })
			group.Go(func() error { return service.Run(ctx) })
			return group.Wait()
		},
	})
	h := &house{t: t, disks: disks, store: store, client: diskv1.NewDiskExportServiceClient(conn)}
	disk := resource.New[*diskv1.VirtualDisk](k)
	disk.Metadata = &metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}
	made, err := disks.Create(t.Context(), disk)
	check(t, err)
	h.uid = made.GetMetadata().GetUid()
	return h
}

// admit lets in one holder at a time, as the rules of a disk do.
func admit(_ context.Context, disk *diskv1.VirtualDisk, holder *metav1.Holder) error {
	for _, other := range disk.GetMetadata().GetHolders() {
		if other.GetActive() && other.GetUid() != holder.GetUid() {
			return fault.New(fault.NotReady, "VirtualDiskAlreadyInUse", "in use by %s %s", other.GetKind(), other.GetName())
		}
	}
	return nil
}

// fill makes the disk of an image and a frozen layer, with holes.
func (h *house) fill() {
	h.t.Helper()
	blob := filepath.Join(h.t.TempDir(), "blob")
	run(h.t, "truncate", "-s", "8M", blob)
	run(h.t, "qemu-io", "-f", "raw", "-c", "write -P 1 0 3M", blob)
	base := layer.Base{Digest: "sha256:0123", Path: blob, Format: "raw"}
	check(h.t, h.store.Make(h.t.Context(), h.uid, &base, 600*mib))
	h.write("write -P 2 1M 5M")
	check(h.t, h.store.Freeze(h.t.Context(), layer.Freezing{Volume: h.uid, Layer: "l"}))
	h.write("write -z 2M 1M", "write -P 3 599M 1M")
}

func (h *house) path() string {
	h.t.Helper()
	volume, found, err := h.store.Lookup(h.t.Context(), h.uid)
	if err != nil || !found {
		h.t.Fatalf("found: %v, %v", found, err)
	}
	return volume.Path
}

func (h *house) write(commands ...string) {
	h.t.Helper()
	args := []string{"-f", "qcow2"}
	for _, command := range commands {
		args = append(args, "-c", command)
	}
	run(h.t, "qemu-io", append(args, h.path())...)
}

// claim tries to hold the disk as a VM that runs with it.
func (h *house) claim() error {
	holder := &metav1.Holder{Kind: "VirtualMachine", Namespace: "default", Name: "web", Uid: "web-uid", Active: true}
	_, err := h.disks.AddHolder(h.t.Context(), key, holder, func(disk *diskv1.VirtualDisk) error {
		return admit(h.t.Context(), disk, holder)
	})
	return err
}

func (h *house) release() {
	h.t.Helper()
	_, err := h.disks.RemoveHolder(h.t.Context(), key, "web-uid")
	check(h.t, err)
}

// awaitFree waits until a VM could start.
func (h *house) awaitFree() {
	h.t.Helper()
	deadline := time.NewTimer(servetest.Patience)
	defer deadline.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for h.claim() != nil {
		select {
		case <-deadline.C:
			h.t.Fatal("the disk is never let go")
		case <-again.C:
		}
	}
	h.release()
}

func (h *house) request(format string) *diskv1.ReadDiskExportRequest {
	return &diskv1.ReadDiskExportRequest{Namespace: key.Namespace, Name: key.Name, Format: format}
}

// fetch reads a part of the file into another at the same place.
func (h *house) fetch(r *diskv1.ReadDiskExportRequest, path string) (*diskv1.DiskExport, string, error) {
	h.t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	check(h.t, err)
	defer file.Close()
	stream, err := h.client.ReadDiskExport(h.t.Context(), r)
	check(h.t, err)
	var told *diskv1.DiskExport
	var sum string
	at := r.GetOffset()
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return told, sum, nil
		}
		if err != nil {
			return told, sum, err
		}
		if f := piece.GetFile(); f != nil {
			told = f
			check(h.t, file.Truncate(f.GetSizeBytes()))
		}
		_, err = file.WriteAt(piece.GetData(), at)
		check(h.t, err)
		at += int64(len(piece.GetData())) + piece.GetZeroBytes()
		sum += piece.GetSha256()
	}
}

func sumOf(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	check(t, err)
	defer file.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, file)
	check(t, err)
	return hex.EncodeToString(sum.Sum(nil))
}

func TestExportIsTheDiskInEitherFormat(t *testing.T) {
	h := newHouse(t, 0)
	h.fill()
	for _, format := range []string{"qcow2", "raw"} {
		path := filepath.Join(t.TempDir(), "file")
		told, sum, err := h.fetch(h.request(format), path)
		check(t, err)
		run(t, "qemu-img", "compare", "-f", "qcow2", "-F", format, h.path(), path)
		if sum != sumOf(t, path) || told.GetVirtualBytes() != 600*mib || told.GetFormat() != format {
			t.Errorf("%s: sha256 %s, %v", format, sum, told)
		}
		if format == "qcow2" {
			run(t, "qemu-img", "check", "-f", "qcow2", path)
			if told.GetSizeBytes() > 9*mib {
				t.Errorf("holes are sent: %d bytes", told.GetSizeBytes())
			}
		}
		digest, err := h.client.DigestDiskExport(t.Context(), &diskv1.DescribeDiskExportRequest{
			Namespace: key.Namespace, Name: key.Name, Format: format,
		})
		if err != nil || digest.GetSha256() != sum || digest.GetEtag() != told.GetEtag() {
			t.Errorf("%s: the digest is %v, %v", format, digest, err)
		}
	}
	h.awaitFree()
}

func TestPartsFitTogether(t *testing.T) {
	h := newHouse(t, 0)
	h.fill()
	for _, format := range []string{"qcow2", "raw"} {
		path := filepath.Join(t.TempDir(), "file")
		part := h.request(format)
		part.Length = 1_234_567
		told, sum, err := h.fetch(part, path)
		check(t, err)
		if sum != "" {
			t.Errorf("%s: a part has a digest", format)
		}
		rest := h.request(format)
		rest.Offset, rest.Etag = part.GetLength(), told.GetEtag()
		_, _, err = h.fetch(rest, path)
		check(t, err)
		run(t, "qemu-img", "compare", "-f", "qcow2", "-F", format, h.path(), path)
		h.awaitFree()
		h.write(fmt.Sprintf("write -P %d 4M 64K", len(format)))
		if _, _, err := h.fetch(rest, path); fault.ReasonOf(err) != export.ReasonChanged || !fault.Is(err, fault.Stale) {
			t.Errorf("%s: parts of two contents: %v", format, err)
		}
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	h := newHouse(t, 0)
	refused := func(r *diskv1.ReadDiskExportRequest, class fault.Class, reason string) {
		t.Helper()
		_, _, err := h.fetch(r, filepath.Join(t.TempDir(), "file"))
		if !fault.Is(err, class) || fault.ReasonOf(err) != reason {
			t.Errorf("got %v, want %v %s", err, class, reason)
		}
	}
	refused(h.request("raw"), fault.NotReady, "VirtualDiskNotReady")
	h.fill()
	refused(h.request("vmdk"), fault.Invalid, fault.ReasonInvalid)
	refused(&diskv1.ReadDiskExportRequest{Namespace: "default", Name: "none"}, fault.NotFound, resource.ReasonNotFound)
	far := h.request("raw")
	far.Offset = 600*mib + 1
	refused(far, fault.Invalid, export.ReasonOffset)
	check(t, h.claim())
	refused(h.request("raw"), fault.NotReady, "VirtualDiskAlreadyInUse")
	h.release()
	h.awaitFree()
}

// begin opens a stream and takes its first piece.
func (h *house) begin(ctx context.Context) grpc.ServerStreamingClient[diskv1.ReadDiskExportResponse] {
	h.t.Helper()
	stream, err := h.client.ReadDiskExport(ctx, h.request("raw"))
	check(h.t, err)
	_, err = stream.Recv()
	check(h.t, err)
	return stream
}

func TestDiskIsHeldByAllWhoReadIt(t *testing.T) {
	h := newHouse(t, 0)
	h.fill()
	first, dropFirst := context.WithCancel(t.Context())
	second, dropSecond := context.WithCancel(t.Context())
	defer dropSecond()
	h.begin(first)
	h.begin(second)
	if err := h.claim(); fault.ReasonOf(err) != "VirtualDiskAlreadyInUse" {
		t.Errorf("a VM may start during an export: %v", err)
	}
	dropFirst()
	// The first one's end is seen by asking for the disk once more.
	_, err := h.client.DescribeDiskExport(t.Context(), &diskv1.DescribeDiskExportRequest{Namespace: key.Namespace, Name: key.Name})
	check(t, err)
	if err := h.claim(); err == nil {
		t.Error("a VM may start during the second export")
	}
	dropSecond()
	h.awaitFree()
}

func TestCallerWhoTakesNothingLosesItsHold(t *testing.T) {
	h := newHouse(t, 300*time.Millisecond)
	h.fill()
	stream := h.begin(t.Context())
	h.awaitFree()
	for {
		if _, err := stream.Recv(); err != nil {
			if fault.ReasonOf(err) != export.ReasonStalled {
				t.Errorf("the stream ended with %v", err)
			}
			return
		}
	}
}

func TestHoldOfAnExportThatDiedGoes(t *testing.T) {
	h := newHouse(t, 0)
	h.fill()
	_, err := h.disks.AddHolder(t.Context(), key, &metav1.Holder{
		Kind: export.HolderKind, Namespace: "default", Name: "data", Uid: "export-" + h.uid, Active: true,
	}, func(*diskv1.VirtualDisk) error { return nil })
	check(t, err)
	service := export.OfDisks(h.disks, h.store, admit, export.Options{Logger: servetest.Quiet()})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	h.awaitFree()
	stop()
	check(t, <-ended)
}
