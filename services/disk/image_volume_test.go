package disk_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/serve/servetest"
)

// shelf is the ImageVolumeService of a house.
type shelf struct {
	*house
	client diskv1.ImageVolumeServiceClient
}

func (s *shelf) ensure(request *diskv1.EnsureImageVolumeRequest, name string) (*diskv1.ImageVolume, error) {
	s.t.Helper()
	request.Owner = &metav1.Holder{Kind: "VirtualImage", Namespace: "default", Name: name, Uid: name + "-uid"}
	request.Generation = max(request.GetGeneration(), 1)
	return s.client.EnsureImageVolume(s.t.Context(), request)
}

func (s *shelf) must(request *diskv1.EnsureImageVolumeRequest, name string) *diskv1.ImageVolume {
	s.t.Helper()
	volume, err := s.ensure(request, name)
	check(s.t, err)
	return volume
}

func (s *shelf) drop(names ...string) {
	s.t.Helper()
	for _, name := range append(names, names...) {
		_, err := s.client.DeleteImageVolume(s.t.Context(), &diskv1.DeleteImageVolumeRequest{OwnerUid: name + "-uid"})
		check(s.t, err)
	}
}

// read is a volume's file from an offset on.
func (s *shelf) read(name string, offset int64) []byte {
	s.t.Helper()
	stream, err := s.client.ReadImageVolume(s.t.Context(), &diskv1.ReadImageVolumeRequest{OwnerUid: name + "-uid", Offset: offset})
	check(s.t, err)
	var all []byte
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		check(s.t, err)
		all = append(all, piece.GetData()...)
	}
}

func ofDisk(name string) *diskv1.EnsureImageVolumeRequest {
	return &diskv1.EnsureImageVolumeRequest{
		Source: &diskv1.EnsureImageVolumeRequest_Disk{Disk: &diskv1.ImageVolumeDisk{Namespace: "default", Name: name}},
	}
}

func ofImage(name string) *diskv1.EnsureImageVolumeRequest {
	return &diskv1.EnsureImageVolumeRequest{Source: &diskv1.EnsureImageVolumeRequest_ImageUid{ImageUid: name + "-uid"}}
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	h := newHouse(t)
	return &shelf{h, diskv1.NewImageVolumeServiceClient(h.conn)}
}

func TestImageIsKeptOnAVolume(t *testing.T) {
	s := newShelf(t)
	if _, err := s.ensure(&diskv1.EnsureImageVolumeRequest{StorageClassName: "none"}, "ubuntu"); fault.ReasonOf(err) != "StorageClassNotReady" {
		t.Errorf("a class that isn't there: %v", err)
	}
	if volume := s.must(&diskv1.EnsureImageVolumeRequest{}, "ubuntu"); volume.GetMade() || volume.GetStorageClassName() != "local" {
		t.Errorf("before there is a source it is %v", volume)
	}
	blob := filepath.Join(t.TempDir(), "blob")
	check(t, os.WriteFile(blob, bytes.Repeat([]byte("orlop"), 300_000), 0o600)) // no whole number of sectors
	request := &diskv1.EnsureImageVolumeRequest{SourceUid: "it", Source: &diskv1.EnsureImageVolumeRequest_Blob{Blob: &imagev1.Blob{
		Digest: "sha256:89ab", Path: blob, Format: "iso", VirtualBytes: 1_500_000, Cdrom: true,
	}}}
	made := s.must(request, "ubuntu")
	if !made.GetMade() || made.GetLost() || made.GetPersistentVolumeClaimName() != "d8v-vi-ubuntu-ubuntu-uid" || made.GetSourceUid() != "it" ||
		!made.GetBlob().GetCdrom() || made.GetBlob().GetFormat() != "iso" || made.GetBlob().GetPath() == blob {
		t.Errorf("the volume is %v", made)
	}
	content, err := os.ReadFile(blob)
	check(t, err)
	check(t, os.Remove(blob)) // as DVCR's collector does
	if got := s.read("ubuntu", 999); !bytes.Equal(got, content[999:]) {
		t.Errorf("%d bytes of the volume are not those of the file", len(got))
	}
	copied := s.must(ofImage("ubuntu"), "copy")
	if copied.GetBlob().GetPath() != made.GetBlob().GetPath() || copied.GetSourceUid() != "ubuntu-uid" {
		t.Errorf("the copy is %v", copied)
	}
	s.drop("ubuntu")
	again := s.must(&diskv1.EnsureImageVolumeRequest{Generation: 1}, "copy")
	if !again.GetMade() || again.GetLost() {
		t.Errorf("the copy went with its source: %v", again)
	}
	check(t, os.Remove(again.GetBlob().GetPath()))
	if lost := s.must(&diskv1.EnsureImageVolumeRequest{}, "copy"); !lost.GetLost() {
		t.Errorf("a volume that is gone: %v", lost)
	}
	if fresh := s.must(&diskv1.EnsureImageVolumeRequest{Generation: 2}, "copy"); fresh.GetMade() {
		t.Errorf("a volume of another generation: %v", fresh)
	}
	s.wantNothing()
}

func TestImageVolumeStandsOnItsDisk(t *testing.T) {
	s := newShelf(t)
	if _, err := s.ensure(ofDisk("data"), "early"); !fault.Is(err, fault.NotFound) {
		t.Errorf("an image of no disk: %v", err)
	}
	check(t, s.apply("data", &diskv1.VirtualDiskSpec{PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: "8Mi"}}))
	s.awaitDisk("data", diskv1.DiskPhase_Ready, "Ready", "")
	_, err := s.claim("data", "web", true)
	check(t, err)
	if _, err := s.ensure(ofDisk("data"), "busy"); fault.ReasonOf(err) != "VirtualDiskAttachedToVirtualMachine" {
		t.Errorf("an image of a disk that a VM runs with: %v", err)
	}
	check(t, s.disks.Release(t.Context(), key("data"), "web-uid"))
	made := s.must(ofDisk("data"), "golden")
	if made.GetBlob().GetLayer() == "" || made.GetBlob().GetVirtualBytes() != blobBytes || made.GetBlob().GetFormat() != "qcow2" {
		t.Errorf("the volume is %v", made)
	}
	// Nobody holds the disk any more, and it goes without its image.
	_, err = s.claim("data", "web", true)
	check(t, err)
	check(t, s.disks.Release(t.Context(), key("data"), "web-uid"))
	s.delete("data")
	if file := s.read("golden", 0); len(file) == 0 || !bytes.HasPrefix(file, []byte("QFI\xfb")) {
		t.Errorf("the volume reads as %d bytes of something else", len(file))
	}
	second := s.must(ofImage("golden"), "second")
	if second.GetBlob().GetLayer() != made.GetBlob().GetLayer() {
		t.Errorf("the copy is %v", second)
	}
	// A disk is made from the layer, in the words of the image service.
	s.serve(second.GetBlob())
	check(t, s.create("clone", "16Mi"))
	s.awaitDisk("clone", diskv1.DiskPhase_Ready, "Ready", "")
	s.drop("golden", "second")
	volume, err := s.claim("clone", "web", true)
	if err != nil || volume.GetVirtualBytes() != 2*blobBytes {
		t.Errorf("the disk is %v, %v", volume, err)
	}
	check(t, s.disks.Release(t.Context(), key("clone"), "web-uid"))
	s.delete("clone")
	s.wantNothing()
}

// serve has the image service's image be a blob.
func (s *shelf) serve(blob *imagev1.Blob) {
	s.t.Helper()
	proto.Reset(s.blob)
	proto.Merge(s.blob, blob)
	image := resource.New[*imagev1.VirtualImage](s.images.Kind())
	image.Metadata = &metav1.ObjectMeta{Namespace: "default", Name: "ubuntu"}
	_, err := s.images.Create(s.t.Context(), image)
	check(s.t, err)
	s.tell(&imagev1.VirtualImageStatus{
		Phase: imagev1.ImagePhase_Ready, Progress: "100%", Size: &imagev1.ImageSize{UnpackedBytes: "8388608"},
	})
	servetest.Await(s.t, servetest.ClientOf[*imagev1.VirtualImage](s.t, s.opts.Images), key("ubuntu"), "was Ready",
		func(i *imagev1.VirtualImage) bool { return i.GetStatus().GetPhase() == imagev1.ImagePhase_Ready })
}

func (s *shelf) wantNothing() {
	s.t.Helper()
	if left, err := filepath.Glob(filepath.Join(s.opts.Dir, "*", "*")); err != nil || len(left) != 0 {
		s.t.Errorf("left behind: %v, %v", left, err)
	}
}
