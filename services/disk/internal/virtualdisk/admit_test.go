package virtualdisk_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/auth/authtest"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
)

func blobPath(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(path, make([]byte, 8*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNewDisksAreJudged(t *testing.T) {
	client := etcdtest.Start(t)
	w := newWorld(t, client)
	for size, field := range map[string]string{
		"10Gi": "", "": "", "0": "spec.persistentVolumeClaim.size", "-1Gi": "spec.persistentVolumeClaim.size",
		"ten": "spec.persistentVolumeClaim.size", "0.5": "spec.persistentVolumeClaim.size", "9e20": "spec.persistentVolumeClaim.size",
	} {
		disk := proto.CloneOf(w.disk)
		disk.Spec = fromImage(size)
		wantRefusal(t, w.r.Admit(t.Context(), nil, disk), size, field)
	}
	dotted := proto.CloneOf(w.disk)
	dotted.Metadata.Name = "a.b"
	wantRefusal(t, w.r.Admit(t.Context(), nil, dotted), "a dot", "metadata.name")
	if err := w.r.Admit(t.Context(), w.disk, nil); err != nil {
		t.Errorf("deletion is refused: %v", err)
	}
}

func TestChangesAreJudgedByWhatIsMade(t *testing.T) {
	client := etcdtest.Start(t)
	for _, test := range []struct {
		name   string
		change func(*diskv1.VirtualDisk)
		before string // refused field, before the disk is made
		after  string // and after
	}{
		{"nothing", func(*diskv1.VirtualDisk) {}, "", ""},
		{"growth", func(d *diskv1.VirtualDisk) { d.Spec = fromImage("1Gi") }, "", ""},
		{"shrinking", func(d *diskv1.VirtualDisk) { d.Spec = fromImage("8Mi") }, "", "spec.persistentVolumeClaim.size"},
		{"no size", func(d *diskv1.VirtualDisk) { d.Spec = fromImage("") }, "", "spec.persistentVolumeClaim.size"},
		{"another source", func(d *diskv1.VirtualDisk) { d.Spec.DataSource.ObjectRef.Name = "debian" }, "", "spec.dataSource"},
		{"another class", func(d *diskv1.VirtualDisk) { d.Spec.PersistentVolumeClaim.StorageClassName = "gold" }, "",
			"spec.persistentVolumeClaim.storageClassName"},
		{"a deleted disk", func(d *diskv1.VirtualDisk) { d.Spec = fromImage("2Gi") }, "spec", "spec"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, client)
			w.disk.Spec = fromImage("16Mi")
			if test.before == "spec" {
				w.disk.Metadata.DeletionTimestamp = timestamppb.New(epoch)
			}
			changed := proto.CloneOf(w.disk)
			test.change(changed)
			wantRefusal(t, w.r.Admit(t.Context(), w.disk, changed), "before it is made", test.before)
			w.disk.Metadata.DeletionTimestamp = nil
			w.ready()
			if test.before == "spec" {
				w.disk.Metadata.DeletionTimestamp = timestamppb.New(epoch)
			}
			wantRefusal(t, w.r.Admit(t.Context(), w.disk, changed), "after it is made", test.after)
		})
	}
}

func wantRefusal(t *testing.T, err error, what, field string) {
	t.Helper()
	if field == "" {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		return
	}
	if f := fault.From(err); f == nil || f.Class != fault.Invalid || len(f.Fields) != 1 || f.Fields[0].Path != field {
		t.Errorf("%s: got %v, want a refusal of %s", what, err, field)
	}
}

func TestHolders(t *testing.T) {
	client := etcdtest.Start(t)
	w := newWorld(t, client)
	ctx := t.Context()
	active, refers := w.hold("web", true), w.hold("web", false)
	if err := w.r.AdmitHolder(ctx, w.disk, active); !fault.Is(err, fault.NotReady) {
		t.Errorf("a disk that isn't made is used: %v", err)
	}
	if err := w.r.AdmitHolder(ctx, w.disk, refers); err != nil {
		t.Errorf("a disk that isn't made can't be referred to: %v", err)
	}
	if _, err := w.r.Answer(ctx, w.disk, refers); err != nil {
		t.Error(err)
	}
	w.ready()
	if err := w.r.AdmitHolder(ctx, w.disk, active); err != nil {
		t.Error(err)
	}
	answer, err := w.r.Answer(ctx, w.disk, active)
	if volume, is := answer.(*diskv1.Volume); !is || volume.GetFormat() != "qcow2" || volume.GetVirtualBytes() != 8*mib {
		t.Errorf("%v, %v", answer, err)
	}
	w.disk.Metadata.Holders = []*metav1.Holder{active}
	if err := w.r.AdmitHolder(ctx, w.disk, active); err != nil {
		t.Errorf("the holder itself is refused: %v", err)
	}
	if err := w.r.AdmitHolder(ctx, w.disk, w.hold("other", true)); fault.ReasonOf(err) != "VirtualDiskAlreadyInUse" {
		t.Errorf("a second VM may use the disk: %v", err)
	}
	if err := w.r.AdmitHolder(ctx, w.disk, w.hold("other", false)); err != nil {
		t.Errorf("a second VM can't refer to the disk: %v", err)
	}
	reads := &metav1.Holder{Kind: "VirtualImage", Name: "copy", Uid: "copy-uid", Active: true}
	if err := w.r.AdmitHolder(ctx, w.disk, reads); fault.ReasonOf(err) != "VirtualDiskAlreadyInUse" {
		t.Errorf("a disk that a VM writes to is read: %v", err)
	}
	w.disk.Metadata.Holders = []*metav1.Holder{reads}
	if err := w.r.AdmitHolder(ctx, w.disk, active); fault.ReasonOf(err) != "VirtualDiskAlreadyInUse" {
		t.Errorf("a disk that is read is written to: %v", err)
	}
	if err := w.r.AdmitHolder(ctx, w.disk, &metav1.Holder{Kind: "VirtualDiskExport", Uid: "export", Active: true}); err != nil {
		t.Errorf("two may not read a disk at once: %v", err)
	}
	w.disk.Metadata.Holders = []*metav1.Holder{refers}
	w.disk.Metadata.DeletionTimestamp = timestamppb.New(epoch)
	if err := w.r.AdmitHolder(ctx, w.disk, active); !fault.Is(err, fault.NotReady) {
		t.Errorf("a disk that is being deleted is used: %v", err)
	}
}

func TestPullSecretNeedsTheRightToReadIt(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	pulls := func(secret string) *diskv1.VirtualDisk {
		disk := proto.CloneOf(w.disk)
		disk.Spec = &diskv1.VirtualDiskSpec{DataSource: &diskv1.DiskDataSource{
			Type: imagev1.DataSourceType_ContainerImage,
			ContainerImage: &imagev1.ContainerImageSource{
				Image: "example.org/ubuntu", ImagePullSecret: &imagev1.ImagePullSecret{Name: secret},
			},
		}}
		return disk
	}
	named, resized := pulls("pull"), pulls("pull")
	resized.Spec.PersistentVolumeClaim = &diskv1.DiskPersistentVolumeClaim{Size: "20Gi"}
	may := []string{"get secrets " + named.GetMetadata().GetNamespace() + " pull"}
	for _, test := range []struct {
		name     string
		rights   []string
		old, new *diskv1.VirtualDisk
		want     fault.Class
	}{
		{"created with it", may, nil, named, fault.None},
		{"created without", nil, nil, named, fault.Denied},
		{"with another one", may, nil, pulls("other"), fault.Denied},
		{"without a name", may, nil, pulls(""), fault.Invalid},
		{"changed with it", may, w.disk, named, fault.None},
		{"changed without", nil, w.disk, named, fault.Denied},
		{"only resized", nil, named, resized, fault.None},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := &diskv1.CreateVirtualDiskRequest{Namespace: named.GetMetadata().GetNamespace(), VirtualDisk: test.new}
			err := authtest.As(t, test.rights, "/orlop.disk.v1.VirtualDiskService/CreateVirtualDisk", request, func(ctx context.Context) error {
				return w.r.Admit(ctx, test.old, test.new)
			})
			if got := fault.ClassOf(err); got != test.want {
				t.Errorf("class %v, want %v: %v", got, test.want, err)
			}
		})
	}
}
