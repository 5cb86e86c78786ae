package rebuild_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/capture"
	"orlop.dev/services/snapshot/internal/rebuild"
	"orlop.dev/services/snapshot/internal/recipe"
)

const namespace = "default"

// errKilled is what a call gets during which the process is killed.
var errKilled = errors.New("killed")

// world is the other services' objects in memory, and one snapshot of VM web. The
// records are in a real etcd.
type world struct {
	t        *testing.T
	engine   *rebuild.Engine
	snapshot *snapshotv1.VirtualMachineSnapshot

	objects map[string]resource.Object // by kind and name
	secrets map[string]*secretv1.Secret
	images  []string
	// content is what each disk has, running whether VM web has a guest.
	content map[string]string
	running bool
	memory  string // that it goes on from
	keeper  string // who keeps it off
	held    string // who holds the snapshot
	// calls counts what the engine does; in the killed one the process dies, with or
	// without its effect.
	calls, killed int
	effect        bool
}

// newWorld has a running VM web, with addresses of IP and MAC, a disk and an attached one, as
// the snapshot has them.
func newWorld(t *testing.T, client *clientv3.Client) *world {
	w := &world{
		t: t, objects: map[string]resource.Object{}, secrets: map[string]*secretv1.Secret{}, images: []string{"iso"},
		content: map[string]string{"root": "new", "data": "new"}, running: true,
		snapshot: &snapshotv1.VirtualMachineSnapshot{
			Metadata: &metav1.ObjectMeta{Namespace: namespace, Name: "monday", Uid: uuid.NewString()},
			Status:   &snapshotv1.VirtualMachineSnapshotStatus{Phase: snapshotv1.SnapshotPhase_Ready},
		},
	}
	prefix := "/" + uuid.NewString()
	w.engine = &rebuild.Engine{
		Objects: w, Maker: w, Snapshots: w,
		Recipes: recipe.NewStore(client, prefix), Records: rebuild.NewStore(client, prefix),
	}
	for _, object := range web() {
		w.put(object)
	}
	w.secrets["cloud"] = &secretv1.Secret{Type: "provisioning", Data: map[string][]byte{"user": []byte("x")}}
	w.keep(recipeOf(t, web()))
	return w
}

// web are the objects of VM web.
func web() []resource.Object {
	meta := func(name string) *metav1.ObjectMeta {
		return &metav1.ObjectMeta{Namespace: namespace, Name: name, Uid: uuid.NewString(), Labels: map[string]string{"app": "web"}}
	}
	disk := func(name string) *diskv1.VirtualDisk {
		return &diskv1.VirtualDisk{
			ApiVersion: "v1alpha2", Kind: "VirtualDisk", Metadata: meta(name), Spec: &diskv1.VirtualDiskSpec{},
			Status: &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready},
		}
	}
	return []resource.Object{
		&vmv1.VirtualMachine{
			ApiVersion: "v1alpha2", Kind: "VirtualMachine", Metadata: meta("web"),
			Spec: &vmv1.VirtualMachineSpec{
				Cpu: &vmv1.CPU{Cores: 1}, RunPolicy: vmv1.RunPolicy_AlwaysOn,
				BlockDeviceRefs: []*vmv1.BlockDeviceRef{
					{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "root"}, {Kind: vmv1.BlockDeviceKind_VirtualImage, Name: "iso"},
				},
				Provisioning: &vmv1.Provisioning{Type: vmv1.ProvisioningType_UserDataRef, UserDataRef: &vmv1.SecretRef{Kind: vmv1.SecretKind_Secret, Name: "cloud"}},
			},
		},
		disk("root"), disk("data"),
		&networkv1.VirtualMachineIPAddress{
			ApiVersion: "v1alpha2", Kind: "VirtualMachineIPAddress", Metadata: meta("web-ip"),
			Spec:   &networkv1.VirtualMachineIPAddressSpec{Type: networkv1.IPAddressType_Static, StaticIp: "10.66.10.7"},
			Status: &networkv1.VirtualMachineIPAddressStatus{Address: "10.66.10.7", VirtualMachineName: "web"},
		},
		&networkv1.VirtualMachineMACAddress{
			ApiVersion: "v1alpha2", Kind: "VirtualMachineMACAddress", Metadata: meta("web-mac"),
			Spec:   &networkv1.VirtualMachineMACAddressSpec{Address: "02-00-00-00-00-07"},
			Status: &networkv1.VirtualMachineMACAddressStatus{Address: "02:00:00:00:00:07", VirtualMachineName: "web"},
		},
		&vmv1.VirtualMachineBlockDeviceAttachment{
			ApiVersion: "v1alpha2", Kind: "VirtualMachineBlockDeviceAttachment", Metadata: meta("web-data"),
			Spec: &vmv1.VirtualMachineBlockDeviceAttachmentSpec{
				VirtualMachineName: "web", BlockDeviceRef: &vmv1.AttachedBlockDeviceRef{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "data"},
			},
		},
	}
}

func recipeOf(t *testing.T, objects []resource.Object) *recipe.Recipe {
	kept := &recipe.Recipe{
		Complete: true, Memory: "memory",
		Secret: &recipe.Secret{Name: "cloud", Type: "provisioning", Data: map[string][]byte{"user": []byte("x")}},
	}
	for _, object := range objects {
		text, err := recipe.Encode(object)
		if err != nil {
			t.Fatal(err)
		}
		switch name := object.GetMetadata().GetName(); object.GetKind() {
		case "VirtualMachine":
			kept.Machine = text
		case "VirtualMachineIPAddress":
			kept.Address = text
		case "VirtualMachineMACAddress":
			kept.MAC = text
		case "VirtualDisk":
			kept.Disks = append(kept.Disks, recipe.Disk{Manifest: text, Snapshot: name + "-s", Source: capture.Disk{Name: name, ID: "old " + name}})
		default:
			kept.Attachments = append(kept.Attachments, text)
		}
	}
	return kept
}

func (w *world) keep(kept *recipe.Recipe) {
	w.t.Helper()
	if err := w.engine.Recipes.Put(w.t.Context(), w.snapshot.GetMetadata().GetUid(), kept); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) put(object resource.Object) {
	w.objects[object.GetKind()+" "+object.GetMetadata().GetName()] = object
}

// names are all objects that there are.
func (w *world) names() string {
	return strings.Join(slices.Sorted(maps.Keys(w.objects)), ", ")
}

func find[T resource.Object](w *world, name string) (T, bool) {
	for _, object := range w.objects {
		if typed, ok := object.(T); ok && object.GetMetadata().GetName() == name {
			return typed, true
		}
	}
	var none T
	return none, false
}

func all[T resource.Object](w *world) []T {
	var typed []T
	for _, object := range w.objects {
		if one, ok := object.(T); ok {
			typed = append(typed, one)
		}
	}
	return typed
}

// call runs what a call does, unless the process is killed in it.
func (w *world) call(do func() error) error {
	w.calls++
	if w.calls != w.killed {
		return do()
	}
	if w.effect {
		_ = do()
	}
	return errKilled
}

func (w *world) Disk(key resource.Key) (*diskv1.VirtualDisk, bool) {
	return find[*diskv1.VirtualDisk](w, key.Name)
}

func (w *world) Machine(key resource.Key) (*vmv1.VirtualMachine, bool) {
	return find[*vmv1.VirtualMachine](w, key.Name)
}

func (w *world) Attachment(key resource.Key) (*vmv1.VirtualMachineBlockDeviceAttachment, bool) {
	return find[*vmv1.VirtualMachineBlockDeviceAttachment](w, key.Name)
}

func (w *world) Attachments(machine resource.Key) []*vmv1.VirtualMachineBlockDeviceAttachment {
	return slices.DeleteFunc(all[*vmv1.VirtualMachineBlockDeviceAttachment](w), func(a *vmv1.VirtualMachineBlockDeviceAttachment) bool {
		return a.GetSpec().GetVirtualMachineName() != machine.Name
	})
}

func (w *world) AddressesOf(string) []*networkv1.VirtualMachineIPAddress {
	return all[*networkv1.VirtualMachineIPAddress](w)
}

func (w *world) MACsOf(string) []*networkv1.VirtualMachineMACAddress {
	return all[*networkv1.VirtualMachineMACAddress](w)
}

func (w *world) ImageExists(_ context.Context, _ vmv1.BlockDeviceKind_Value, key resource.Key) (bool, error) {
	return slices.Contains(w.images, key.Name), nil
}

func (w *world) Secret(_ context.Context, key resource.Key) (*secretv1.Secret, error) {
	if secret := w.secrets[key.Name]; secret != nil {
		return secret, nil
	}
	return nil, fault.New(fault.NotFound, "NotFound", "no Secret %s", key.Name)
}

func (w *world) Create(_ context.Context, object resource.Object) error {
	return w.call(func() error {
		if w.objects[object.GetKind()+" "+object.GetMetadata().GetName()] != nil {
			return fault.New(fault.Exists, "Exists", "%s exists", object.GetMetadata().GetName())
		}
		fresh, _ := proto.Clone(object).(resource.Object)
		fresh.GetMetadata().Uid = uuid.NewString()
		if disk, ok := fresh.(*diskv1.VirtualDisk); ok {
			w.content[disk.GetMetadata().GetName()] = "from " + disk.GetSpec().GetDataSource().GetObjectRef().GetName()
			disk.Status = &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Provisioning}
		}
		w.put(fresh)
		return nil
	})
}

func (w *world) Find(_ context.Context, kind string, key resource.Key) (resource.Object, error) {
	if found := w.objects[kind+" "+key.Name]; found != nil {
		return found, nil
	}
	return nil, fault.New(fault.NotFound, "NotFound", "no %s %s", kind, key.Name)
}

func (w *world) Delete(_ context.Context, object resource.Object) error {
	return w.call(func() error {
		delete(w.objects, object.GetKind()+" "+object.GetMetadata().GetName())
		return nil
	})
}

func (w *world) MakeSecret(_ context.Context, key resource.Key, secret *secretv1.Secret) error {
	return w.call(func() error {
		if w.secrets[key.Name] != nil {
			return fault.New(fault.Exists, "Exists", "Secret %s exists", key.Name)
		}
		w.secrets[key.Name] = secret
		return nil
	})
}

func (w *world) DeleteSecret(_ context.Context, key resource.Key, mark string) error {
	return w.call(func() error {
		if w.secrets[key.Name].GetMark() == mark {
			delete(w.secrets, key.Name)
		}
		return nil
	})
}

func (w *world) UpdateMachine(_ context.Context, vm *vmv1.VirtualMachine, dry bool) error {
	return w.call(func() error {
		if vm.GetSpec().GetCpu().GetCores() > 8 {
			return fault.Refuse("spec.cpu.cores", "FieldValueInvalid", "at most 8")
		}
		if !dry {
			w.off("the VM is changed")
			w.put(vm)
		}
		return nil
	})
}

func (w *world) Revert(_ context.Context, disk *diskv1.VirtualDisk, layer string) error {
	return w.call(func() error {
		w.off("a disk is put back")
		w.content[disk.GetMetadata().GetName()] = layer
		return nil
	})
}

// off fails the test if the VM could write to its disks.
func (w *world) off(what string) {
	w.t.Helper()
	if w.running || w.keeper == "" {
		w.t.Errorf("%s, and the VM runs: %t, is kept off by %q", what, w.running, w.keeper)
	}
}

// TurnOff takes two calls until the guest is off.
func (w *world) TurnOff(_ context.Context, _ *vmv1.VirtualMachine, holder *metav1.Holder) (bool, error) {
	off := false
	return off, w.call(func() error {
		off = w.keeper != ""
		w.keeper = holder.GetUid()
		w.running = w.running && !off
		return nil
	})
}

func (w *world) LetRun(_ context.Context, _, holder, memory string) error {
	return w.call(func() error {
		if w.keeper == holder {
			w.keeper, w.running, w.memory = "", true, memory
		}
		return nil
	})
}

func (w *world) Snapshot(key resource.Key) (*snapshotv1.VirtualMachineSnapshot, bool) {
	return w.snapshot, w.snapshot != nil && key.Name == w.snapshot.GetMetadata().GetName()
}

func (w *world) Hold(_ context.Context, _ resource.Key, holder *metav1.Holder) error {
	w.held = holder.GetUid()
	return nil
}

func (w *world) LetGo(_ context.Context, _ resource.Key, _ string) error {
	return w.call(func() error { w.held = ""; return nil })
}
