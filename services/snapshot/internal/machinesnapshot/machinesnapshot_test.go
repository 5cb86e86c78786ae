package machinesnapshot_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/snapshot/internal/capture"
	"orlop.dev/services/snapshot/internal/machinesnapshot"
	"orlop.dev/services/snapshot/internal/recipe"
)

// world is VM web with all that it has, and what a capturer says.
type world struct {
	t        *testing.T
	r        *machinesnapshot.Reconciler
	vm       *vmv1.VirtualMachine
	disk     *diskv1.VirtualDisk
	address  *networkv1.VirtualMachineIPAddress
	mac      *networkv1.VirtualMachineMACAddress
	secret   *secretv1.Secret
	snapshot *snapshotv1.VirtualMachineSnapshot

	taking    error
	taken     *capture.Taken // what is true once it is taken
	is        bool
	withers   bool // the data is lost
	children  map[string]string
	dropped   []string
	abandoned int
}

func newWorld(t *testing.T, client *clientv3.Client) *world {
	meta := func(name string) *metav1.ObjectMeta {
		return &metav1.ObjectMeta{Namespace: "default", Name: name, Uid: uuid.NewString()}
	}
	required := true
	w := &world{
		t: t, children: map[string]string{}, taken: &capture.Taken{Consistent: true},
		vm: &vmv1.VirtualMachine{
			ApiVersion: "virtualization.deckhouse.io/v1alpha2", Kind: "VirtualMachine", Metadata: meta("web"),
			Spec: &vmv1.VirtualMachineSpec{
				BlockDeviceRefs: []*vmv1.BlockDeviceRef{{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "root"}},
				Provisioning:    &vmv1.Provisioning{Type: vmv1.ProvisioningType_UserDataRef, UserDataRef: &vmv1.SecretRef{Name: "cloud"}},
			},
			Status: &vmv1.VirtualMachineStatus{
				Phase: vmv1.VirtualMachinePhase_Running, VirtualMachineIpAddressName: "web-ip",
				Networks:   []*vmv1.NetworkStatus{{VirtualMachineMacAddressName: "web-mac"}},
				Conditions: []*metav1.Condition{{Type: "AgentReady", Status: metav1.ConditionStatus_True}},
			},
		},
		disk: &diskv1.VirtualDisk{Kind: "VirtualDisk", Metadata: meta("root"), Status: &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready}},
		address: &networkv1.VirtualMachineIPAddress{
			Kind: "VirtualMachineIPAddress", Metadata: meta("web-ip"),
			Spec:   &networkv1.VirtualMachineIPAddressSpec{Type: networkv1.IPAddressType_Auto},
			Status: &networkv1.VirtualMachineIPAddressStatus{Address: "10.66.10.7"},
		},
		mac: &networkv1.VirtualMachineMACAddress{
			Kind: "VirtualMachineMACAddress", Metadata: meta("web-mac"), Spec: &networkv1.VirtualMachineMACAddressSpec{},
			Status: &networkv1.VirtualMachineMACAddressStatus{Address: "02:00:00:00:00:07"},
		},
		secret: &secretv1.Secret{Type: "provisioning", Data: map[string][]byte{"userData": []byte("#cloud-config")}},
		snapshot: &snapshotv1.VirtualMachineSnapshot{
			Metadata: meta("monday"),
			Spec: &snapshotv1.VirtualMachineSnapshotSpec{
				VirtualMachineName: "web", RequiredConsistency: &required, KeepIpAddress: snapshotv1.KeepIPAddress_Always,
			},
		},
	}
	w.r = &machinesnapshot.Reconciler{
		Objects: w, Capturer: w, Children: w, Classes: w, Recipes: recipe.NewStore(client, "/"+uuid.NewString()), Now: time.Now,
	}
	return w
}

func (w *world) Disk(resource.Key) (*diskv1.VirtualDisk, bool)     { return w.disk, w.disk != nil }
func (w *world) Machine(resource.Key) (*vmv1.VirtualMachine, bool) { return w.vm, w.vm != nil }

func (w *world) Address(key resource.Key) (*networkv1.VirtualMachineIPAddress, bool) {
	return w.address, key.Name == "web-ip"
}

func (w *world) MAC(key resource.Key) (*networkv1.VirtualMachineMACAddress, bool) {
	return w.mac, key.Name == "web-mac"
}

func (w *world) Attachments(resource.Key) []*vmv1.VirtualMachineBlockDeviceAttachment { return nil }

func (w *world) Secret(context.Context, resource.Key) (*secretv1.Secret, error) {
	if w.secret == nil {
		return nil, fault.New(fault.NotFound, "NotFound", "Secret cloud does not exist")
	}
	return w.secret, nil
}

func (w *world) Admit(string, string) error                                { return nil }
func (w *world) Begin(context.Context, string, []capture.Disk, bool) error { return nil }
func (w *world) Lost(context.Context, string) (bool, error)                { return w.withers, nil }
func (w *world) Wake(resource.Key)                                         {}

func (w *world) Take(context.Context, string, vmv1.GuestRest_Value) error {
	w.is = w.taking == nil
	return w.taking
}

func (w *world) Taken(context.Context, string) (*capture.Taken, error) {
	if !w.is {
		return nil, nil
	}
	return w.taken, nil
}

func (w *world) Abandon(context.Context, string, ...string) error { w.abandoned++; return nil }

func (w *world) DropMemory(_ context.Context, token string) error {
	w.dropped = append(w.dropped, "memory of "+token)
	return nil
}

func (w *world) Make(_ context.Context, _ *snapshotv1.VirtualMachineSnapshot, name, disk string) (string, error) {
	w.children[name] = disk
	return "uid of " + name, nil
}

func (w *world) Drop(_ context.Context, _ *snapshotv1.VirtualMachineSnapshot, name string) error {
	w.dropped = append(w.dropped, name)
	return nil
}

// settle reconciles as often as a snapshot takes, and writes the status as a loop
// does.
func (w *world) settle() (gone bool) {
	w.t.Helper()
	for range 5 {
		result, _ := w.r.Reconcile(w.t.Context(), w.snapshot)
		if status, has := result.Status.(*snapshotv1.VirtualMachineSnapshotStatus); has {
			w.snapshot.Status = status
		}
		if result.Finalized {
			return true
		}
	}
	return false
}

func TestAStatusSaysWhatASnapshotWaitsForOrWhyItFailed(t *testing.T) {
	client := etcdtest.Start(t)
	const failed, waits = snapshotv1.SnapshotPhase_Failed, snapshotv1.SnapshotPhase_Pending
	for message, test := range map[string]struct {
		change func(*world)
		phase  snapshotv1.SnapshotPhase_Value
	}{
		"":                                   {func(*world) {}, snapshotv1.SnapshotPhase_Ready},
		"VirtualMachine web does not exist.": {func(w *world) { w.vm = nil }, waits},
		"neither Running nor Stopped":        {func(w *world) { w.vm.Status.Phase = vmv1.VirtualMachinePhase_Migrating }, waits},
		"no guest agent answers":             {func(w *world) { w.vm.Status.Conditions = nil }, waits},
		"root is being resized":              {func(w *world) { w.disk.Status.Phase = diskv1.DiskPhase_Resizing }, failed},
		"root of VirtualMachine web does not exist": {func(w *world) { w.disk = nil }, failed},
		"Changes of VirtualMachine web wait for a restart": {func(w *world) {
			w.vm.Status.RestartAwaitingChanges = []*structpb.Struct{{}}
		}, failed},
		"depends on is ready: BlockDevicesReady": {func(w *world) {
			w.vm.Status.Conditions = append(w.vm.Status.Conditions, &metav1.Condition{Type: "BlockDevicesReady", Status: metav1.ConditionStatus_False})
		}, failed},
		"Secret cloud does not exist.":         {func(w *world) { w.secret = nil }, failed},
		"A disk of the VM went":                {func(w *world) { w.taking = fault.New(fault.NotFound, "Gone", "gone") }, failed},
		"The memory can't be.":                 {func(w *world) { w.taking = fault.New(fault.Invalid, "MemoryNotKept", "The memory can't be") }, failed},
		"The memory of the guest was not kept": {func(w *world) { w.taken.MemoryLost = true }, failed},
		"were not at rest all the time":        {func(w *world) { w.taken.Consistent = false }, failed},
		"has lost its data":                    {func(w *world) { w.withers = true }, failed},
	} {
		t.Run(message, func(t *testing.T) {
			w := newWorld(t, client)
			test.change(w)
			w.settle()
			got := condition.Find(w.snapshot.GetStatus().GetConditions(), "VirtualMachineSnapshotReady")
			if w.snapshot.GetStatus().GetPhase() != test.phase || !strings.Contains(got.GetMessage(), message) {
				t.Errorf("the status is %v", w.snapshot.GetStatus())
			}
		})
	}
}

func TestARecipeHasAllThatAMachineIsMadeOf(t *testing.T) {
	client := etcdtest.Start(t)
	for keep, want := range map[snapshotv1.KeepIPAddress_Value]string{
		snapshotv1.KeepIPAddress_Always: "VirtualMachine, VirtualDisk, VirtualMachineIPAddress, VirtualMachineMACAddress, Secret",
		snapshotv1.KeepIPAddress_Never:  "VirtualMachine, VirtualDisk, Secret",
	} {
		w := newWorld(t, client)
		w.snapshot.Spec.KeepIpAddress = keep
		w.taken.Memory = "token"
		w.settle()
		var kinds []string
		for _, one := range w.snapshot.GetStatus().GetResources() {
			kinds = append(kinds, one.GetKind())
		}
		if got := strings.Join(kinds, ", "); got != want || !w.snapshot.GetStatus().GetConsistent() || !w.snapshot.GetStatus().GetIncludesMemory() {
			t.Errorf("%s: the snapshot has %s, %v", keep, got, w.snapshot.GetStatus())
		}
		kept, err := w.r.Recipes.Get(t.Context(), w.snapshot.GetMetadata().GetUid())
		if err != nil || kept.Memory != "token" || string(kept.Secret.Data["userData"]) != "#cloud-config" {
			t.Errorf("the recipe is %+v, %v", kept, err)
		}
		if always := keep == snapshotv1.KeepIPAddress_Always; always != strings.Contains(string(kept.Address), `"staticIP":"10.66.10.7"`) ||
			always != strings.Contains(string(kept.MAC), "02:00:00:00:00:07") {
			t.Errorf("%s: the addresses are %s and %s", keep, kept.Address, kept.MAC)
		}
	}
}

func TestASnapshotGoesWithAllThatItHasOnceNobodyUsesIt(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	with := true
	w.snapshot.Spec.IncludeMemory = &with
	w.settle()
	w.snapshot.Metadata.DeletionTimestamp = timestamppb.Now()
	w.snapshot.Metadata.Holders = []*metav1.Holder{{Kind: "VirtualMachineRestore", Name: "back", Active: true}}
	if w.settle() || len(w.dropped) > 0 {
		t.Errorf("it is gone while it is used; dropped are %v", w.dropped)
	}
	if got := condition.Find(w.snapshot.GetStatus().GetConditions(), "VirtualMachineSnapshotReady"); !strings.Contains(got.GetMessage(), "VirtualMachineRestore back") {
		t.Errorf("it says %v", got)
	}
	w.snapshot.Metadata.Holders = nil
	uid := w.snapshot.GetMetadata().GetUid()
	if !w.settle() || strings.Join(w.dropped, ", ") != "memory of "+uid+", root-"+uid {
		t.Errorf("dropped are %v", w.dropped)
	}
	if kept, err := w.r.Recipes.Get(t.Context(), uid); err != nil || kept.Exists() {
		t.Errorf("the recipe is %+v, %v", kept, err)
	}
}
