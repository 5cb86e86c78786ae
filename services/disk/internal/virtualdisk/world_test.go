package virtualdisk_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/services/disk/internal/layer"
	"orlop.dev/services/disk/internal/origin"
	"orlop.dev/services/disk/internal/storageclass"
	"orlop.dev/services/disk/internal/virtualdisk"
)

const mib = 1 << 20

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is one disk with real layers and a record in a real etcd. One image, and
// a service that imports files, exist in memory.
type world struct {
	t      *testing.T
	disk   *diskv1.VirtualDisk
	r      *virtualdisk.Reconciler
	image  *image
	file   *imports
	volume *volumes
	space  *space
	dir    string
	now    time.Time
}

func newWorld(t *testing.T, client *clientv3.Client) *world {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed: make setup installs it")
	}
	dir := t.TempDir()
	store, err := layer.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	blob := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(blob, make([]byte, 8*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, dir: dir, volume: &volumes{Volumes: store}, now: epoch.Add(3 * time.Second), space: new(space),
		file: &imports{blob: &imagev1.Blob{Digest: "sha256:4567", Path: blob, Format: "raw", VirtualBytes: 8 * mib}},
	}
	w.image = &image{
		state: virtualdisk.ImageState{Found: true, Ready: true, UID: "image-uid", Phase: "Ready", Progress: "100%", VirtualBytes: 8 * mib},
		blob:  &imagev1.Blob{Digest: "sha256:0123", Path: blob, Format: "raw", VirtualBytes: 8 * mib},
	}
	prefix := "/" + uuid.NewString()
	w.r = &virtualdisk.Reconciler{
		Volumes: w.volume, Images: w.image, Imports: w.file, Space: w.space,
		Origins: origin.NewStore(client, prefix),
		Classes: storageclass.New(storageclass.Options{Etcd: client, Prefix: prefix, Changed: func() {}}),
		Now:     func() time.Time { return w.now },
	}
	w.disk = &diskv1.VirtualDisk{
		Metadata: &metav1.ObjectMeta{
			Namespace: "default", Name: "root", Uid: "disk-uid", Generation: 1, CreationTimestamp: timestamppb.New(epoch),
		},
		Spec: fromImage(""),
	}
	return w
}

func fromImage(size string) *diskv1.VirtualDiskSpec {
	return &diskv1.VirtualDiskSpec{
		PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: size},
		DataSource: &diskv1.DiskDataSource{
			Type:      imagev1.DataSourceType_ObjectRef,
			ObjectRef: &diskv1.DiskObjectRef{Kind: diskv1.DiskObjectRefKind_VirtualImage, Name: "ubuntu"},
		},
	}
}

func blank(size string) *diskv1.VirtualDiskSpec {
	return &diskv1.VirtualDiskSpec{PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: size}}
}

// pass reconciles once, and writes the status as a loop does.
func (w *world) pass() (reconcile.Result, error) {
	w.t.Helper()
	result, err := w.r.Reconcile(w.t.Context(), proto.CloneOf(w.disk))
	if status, has := result.Status.(*diskv1.VirtualDiskStatus); has {
		w.disk.Status = status
	}
	return result, err
}

func (w *world) ready() {
	w.t.Helper()
	if _, err := w.pass(); err != nil {
		w.t.Fatal(err)
	}
	w.want(diskv1.DiskPhase_Ready, "Ready", "Ready", "")
}

func (w *world) want(phase diskv1.DiskPhase_Value, name, reason, message string) {
	w.t.Helper()
	c := condition.Find(w.disk.GetStatus().GetConditions(), name)
	if w.disk.GetStatus().GetPhase() != phase || c.GetReason() != reason || message != "" && c.GetMessage() != message {
		w.t.Fatalf("phase %s, %v; want %s, %s: %s", w.disk.GetStatus().GetPhase(), c, phase, reason, message)
	}
}

// files counts what is left of disks.
func (w *world) files() int {
	w.t.Helper()
	count := 0
	for _, pattern := range []string{"volumes/*", "bases/*"} {
		found, err := filepath.Glob(filepath.Join(w.dir, pattern))
		if err != nil {
			w.t.Fatal(err)
		}
		count += len(found)
	}
	return count
}

// edit changes the spec, as a user does.
func (w *world) edit(spec *diskv1.VirtualDiskSpec) {
	w.disk.Spec = spec
	w.disk.Metadata.Generation++
}

// claim does what the service does for a holder.
func (w *world) claim(holder *metav1.Holder) (*diskv1.Volume, error) {
	w.t.Helper()
	if err := w.r.AdmitHolder(w.t.Context(), w.disk, holder); err != nil {
		return nil, err
	}
	w.disk.Metadata.Holders = []*metav1.Holder{holder}
	answer, err := w.r.Answer(w.t.Context(), w.disk, holder)
	if err != nil {
		return nil, err
	}
	return answer.(*diskv1.Volume), nil
}

func (w *world) hold(name string, active bool) *metav1.Holder {
	return &metav1.Holder{Kind: "VirtualMachine", Namespace: "default", Name: name, Uid: name + "-uid", Active: active}
}

// image implements virtualdisk.Images.
type image struct {
	state  virtualdisk.ImageState
	blob   *imagev1.Blob
	holder string
	claims int
	broken error
}

func (i *image) State(*diskv1.DiskObjectRef, string) virtualdisk.ImageState {
	return i.state
}

func (i *image) Claim(_ context.Context, _ *diskv1.DiskObjectRef, holder *metav1.Holder) (*imagev1.Blob, error) {
	if i.broken != nil {
		return nil, i.broken
	}
	i.holder = holder.GetUid()
	i.claims++
	return i.blob, nil
}

func (i *image) Release(_ context.Context, _ *diskv1.DiskObjectRef, holder *metav1.Holder) error {
	if i.broken != nil {
		return i.broken
	}
	if i.holder == holder.GetUid() {
		i.holder = ""
	}
	return nil
}

// volumes are real ones that can be made to fail.
type volumes struct {
	virtualdisk.Volumes
	broken error
}

func (v *volumes) Make(ctx context.Context, id string, base *layer.Base, virtualBytes int64) error {
	return errors.Join(v.broken, v.unless(func() error { return v.Volumes.Make(ctx, id, base, virtualBytes) }))
}

func (v *volumes) Grow(ctx context.Context, id string, virtualBytes int64) error {
	return errors.Join(v.broken, v.unless(func() error { return v.Volumes.Grow(ctx, id, virtualBytes) }))
}

func (v *volumes) unless(do func() error) error {
	if v.broken != nil {
		return nil
	}
	return do()
}

// imports are an image service that imports one file.
type imports struct {
	stage      imagev1.ImportStage_Value
	progress   string
	reason     string
	blob       *imagev1.Blob
	broken     error
	owner      string
	generation int32
	source     *imagev1.DataSource
	begun      int
}

func (i *imports) Ensure(_ context.Context, owner *metav1.Holder, generation int32, source *imagev1.DataSource) (*imagev1.Import, error) {
	if i.broken != nil {
		return nil, i.broken
	}
	if i.owner != owner.GetUid() || i.generation != generation {
		i.owner, i.generation, i.source = owner.GetUid(), generation, source
		i.begun++
	}
	file := &imagev1.Import{
		Owner: owner, Generation: generation, Stage: i.stage, Progress: i.progress, Reason: i.reason,
		DownloadSpeed: &imagev1.DownloadSpeed{Avg: "1Mi/s"},
	}
	switch i.stage {
	case imagev1.ImportStage_WaitForUserUpload:
		file.ImageUploadUrls = &imagev1.ImageUploadURLs{External: "https://127.0.0.1/upload/x", InCluster: "https://127.0.0.1/upload/y"}
		file.UploadCommand = "curl x"
	case imagev1.ImportStage_Done:
		file.Blob = i.blob
	case imagev1.ImportStage_Failed, imagev1.ImportStage_Retrying:
		file.Message = "the server says 404"
	}
	return file, nil
}

func (i *imports) Drop(_ context.Context, owner *metav1.Holder) error {
	if i.broken != nil {
		return i.broken
	}
	if i.owner == owner.GetUid() {
		i.owner = ""
	}
	return nil
}

// space has as much room as a test wants.
type space struct{ room layer.Room }

func (s *space) Room(context.Context) (layer.Room, error) { return s.room, nil }

func qemuImg(t *testing.T, arguments ...string) {
	t.Helper()
	if out, err := exec.Command("qemu-img", arguments...).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img %v: %v: %s", arguments, err, out)
	}
}
