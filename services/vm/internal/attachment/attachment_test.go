package attachment_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/attachment"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/machine/machinetest"
	"orlop.dev/services/vm/internal/power"
)

type object = vmv1.VirtualMachineBlockDeviceAttachment

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world has two VMs that run, disks and attachments, all in memory but for the
// power records. It dies after some steps where it is told to.
type world struct {
	t       *testing.T
	r       *attachment.Reconciler
	engine  *machinetest.Engine
	vms     map[string]*vmv1.VirtualMachine
	all     []*object
	states  map[string]machine.DeviceState
	holders map[string]*metav1.Holder
	nodes   map[string]string

	steps, cutAt int
	cut          context.CancelFunc
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, engine: new(machinetest.Engine), vms: map[string]*vmv1.VirtualMachine{},
		states: map[string]machine.DeviceState{}, holders: map[string]*metav1.Holder{}, nodes: map[string]string{},
	}
	w.r = &attachment.Reconciler{
		Machines: w, Devices: w, Engine: w, Power: power.NewStore(etcdtest.Start(t), "/"+uuid.NewString()),
		All: func(string) ([]*object, error) { return w.all, nil }, Now: func() time.Time { return epoch },
	}
	for _, name := range []string{"web", "db"} {
		w.vms[name] = &vmv1.VirtualMachine{
			Kind: "VirtualMachine", Metadata: &metav1.ObjectMeta{Namespace: "default", Name: name, Uid: uuid.NewString()},
			Spec: &vmv1.VirtualMachineSpec{
				RunPolicy:       vmv1.RunPolicy_AlwaysOn,
				BlockDeviceRefs: []*vmv1.BlockDeviceRef{{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: name + "-root"}},
			},
			Status: &vmv1.VirtualMachineStatus{Phase: vmv1.VirtualMachinePhase_Running},
		}
		w.start(name)
	}
	w.states["data"] = machine.DeviceState{Found: true, Ready: true, Phase: "Ready"}
	return w
}

func (w *world) uid(vm string) string { return w.vms[vm].GetMetadata().GetUid() }

func (w *world) start(vm string) {
	w.t.Helper()
	if err := w.engine.Start(w.t.Context(), machine.Instance{UID: w.uid(vm)}); err != nil {
		w.t.Fatal(err)
	}
	w.record(vm, "node-1")
}

func (w *world) stop(vm string) {
	w.t.Helper()
	if err := w.engine.Kill(w.t.Context(), w.uid(vm)); err != nil {
		w.t.Fatal(err)
	}
	w.record(vm, "")
	w.vms[vm].Status.Phase = vmv1.VirtualMachinePhase_Stopped
}

func (w *world) record(vm, node string) {
	w.t.Helper()
	if err := w.r.Power.Change(w.t.Context(), w.uid(vm), func(r *power.Record) { r.Node = node }); err != nil {
		w.t.Fatal(err)
	}
}

// attach makes an attachment, a second younger than the one before.
func (w *world) attach(name, device, vm string) *object {
	a := newAttachment(name, device, vm)
	a.Metadata.CreationTimestamp = timestamppb.New(epoch.Add(time.Duration(len(w.all)) * time.Second))
	w.all = append(w.all, a)
	return a
}

func newAttachment(name, device, vm string) *object {
	return &object{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: name, Uid: uuid.NewString(), Generation: 1},
		Spec: &vmv1.VirtualMachineBlockDeviceAttachmentSpec{
			VirtualMachineName: vm,
			BlockDeviceRef:     &vmv1.AttachedBlockDeviceRef{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: device},
		},
	}
}

// pass reconciles once, as a loop does.
func (w *world) pass(ctx context.Context, a *object) (gone bool) {
	w.t.Helper()
	result, err := w.r.Reconcile(ctx, proto.CloneOf(a))
	if fault.Is(err, fault.Internal) && ctx.Err() == nil {
		w.t.Fatal(err)
	}
	if status, has := result.Status.(*vmv1.VirtualMachineBlockDeviceAttachmentStatus); has {
		a.Status = status
	}
	if result.Finalized {
		w.all = slices.DeleteFunc(w.all, func(other *object) bool { return other == a })
	}
	return result.Finalized
}

func (w *world) want(a *object, phase vmv1.AttachmentPhase_Value, name, reason string) {
	w.t.Helper()
	w.pass(w.t.Context(), a)
	c := condition.Find(a.GetStatus().GetConditions(), name)
	if a.GetStatus().GetPhase() != phase || c.GetReason() != reason {
		w.t.Errorf("%s is %s, %s is %v; want %s, %s", a.GetMetadata().GetName(), a.GetStatus().GetPhase(), name, c, phase, reason)
	}
}

// wantPlugged says which VM has the disk, and that its claim says so too.
func (w *world) wantPlugged(vm string) {
	w.t.Helper()
	for name := range w.vms {
		sight, err := w.engine.Look(w.t.Context(), w.uid(name))
		if err != nil {
			w.t.Fatal(err)
		}
		if got := slices.Contains(sight.IDs(), "virtualdisk/data"); got != (name == vm) {
			w.t.Errorf("%s has the disk: %v", name, got)
		}
	}
	if holder := w.holders["data"]; holder.GetActive() != (vm != "") || holder.GetName() != vm {
		w.t.Errorf("the disk is held by %v, want %q", holder, vm)
	}
}

func (w *world) Machine(key resource.Key) (*vmv1.VirtualMachine, bool) {
	vm, found := w.vms[key.Name]
	return vm, found
}

func (w *world) Wake(resource.Key) {}

func (w *world) State(ref *vmv1.BlockDeviceRef, _ string) machine.DeviceState {
	state := w.states[ref.GetName()]
	if holder := w.holders[ref.GetName()]; holder.GetActive() {
		state.HeldBy = holder
	}
	return state
}

func (w *world) Claim(ctx context.Context, ref *vmv1.BlockDeviceRef, holder *metav1.Holder) (machine.Device, error) {
	device := machine.Device{ID: machine.DeviceID(ref), Path: "/disks/" + ref.GetName(), Node: w.nodes[ref.GetName()]}
	if w.states[ref.GetName()].AwaitsConsumer {
		device.Path = ""
	}
	return device, w.step(ctx, func() { w.holders[ref.GetName()] = holder })
}

func (w *world) Release(ctx context.Context, ref *vmv1.BlockDeviceRef, holder *metav1.Holder) error {
	return w.step(ctx, func() {
		if w.holders[ref.GetName()].GetUid() == holder.GetUid() {
			delete(w.holders, ref.GetName())
		}
	})
}

func (w *world) Held(*metav1.Holder) []machine.HeldDevice { return nil }

func (w *world) Look(ctx context.Context, uid string) (machine.Sight, error) {
	return w.engine.Look(ctx, uid)
}

func (w *world) Plug(ctx context.Context, uid string, device machine.Device) (err error) {
	return cmp(w.step(ctx, func() { err = w.engine.Plug(w.t.Context(), uid, device) }), err)
}

func (w *world) Unplug(ctx context.Context, uid, device string) (err error) {
	return cmp(w.step(ctx, func() { err = w.engine.Unplug(w.t.Context(), uid, device) }), err)
}

func cmp(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// step has an effect, before or after which the process may die.
func (w *world) step(ctx context.Context, effect func()) error {
	for _, part := range []func(){func() {}, effect} {
		if w.steps++; w.steps == w.cutAt {
			w.cut()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		part()
	}
	if w.steps++; w.steps == w.cutAt {
		w.cut()
	}
	return ctx.Err()
}

const (
	pending  = vmv1.AttachmentPhase_Pending
	attached = vmv1.AttachmentPhase_Attached
	failed   = vmv1.AttachmentPhase_Failed
)

func TestDiskIsAttachedWhileTheVMRuns(t *testing.T) {
	w := newWorld(t)
	a := w.attach("a", "data", "web")
	w.want(a, attached, "Attached", "Attached")
	w.wantPlugged("web")
	w.want(a, attached, "BlockDeviceReady", "BlockDeviceReady")
	w.stop("web")
	w.holders = map[string]*metav1.Holder{} // as package machine does
	w.want(a, pending, "VirtualMachineReady", "VirtualMachineNotReady")
	w.start("web")
	w.want(a, attached, "Attached", "Attached")
	a.Metadata.DeletionTimestamp = timestamppb.New(epoch)
	if !w.pass(t.Context(), a) {
		t.Error("it stays")
	}
	w.wantPlugged("")
}

func TestAttachmentWaits(t *testing.T) {
	w := newWorld(t)
	w.want(w.attach("a", "data", "none"), pending, "VirtualMachineReady", "VirtualMachineNotReady")
	w.all = nil
	w.want(w.attach("a", "none", "web"), pending, "BlockDeviceReady", "BlockDeviceNotReady")
	w.all = nil
	w.holders["data"] = machine.User(w.vms["db"], &power.Record{Node: "node-1"})
	a := w.attach("a", "data", "web")
	w.want(a, pending, "BlockDeviceReady", "BlockDeviceNotReady")
	delete(w.holders, "data")
	w.nodes["data"] = "node-2"
	w.want(a, pending, "Attached", "DeviceNotAvailableOnNode")
	if w.holders["data"].GetActive() {
		t.Error("a disk that can't be reached is in use")
	}
	w.nodes["data"] = ""
	w.states["data"] = machine.DeviceState{Found: true, AwaitsConsumer: true, InMaking: true}
	w.want(a, pending, "Attached", "NotAttached")
	if holder := w.holders["data"]; !holder.GetActive() || holder.GetNode() != "node-1" {
		t.Errorf("the first consumer is %v", holder)
	}
	w.states["data"] = machine.DeviceState{Found: true, Ready: true}
	w.want(a, attached, "Attached", "Attached")
}

func TestDiskThatTheVMBootedWithIsAttachedAfterARestart(t *testing.T) {
	w := newWorld(t)
	applied := []byte(`{"blockDeviceRefs":[{"kind":"VirtualDisk","name":"data"}]}`)
	if err := w.r.Power.Change(t.Context(), w.uid("web"), func(r *power.Record) { r.Applied = applied }); err != nil {
		t.Fatal(err)
	}
	w.holders["data"] = machine.User(w.vms["web"], &power.Record{Node: "node-1"})
	a := w.attach("a", "data", "web")
	w.want(a, pending, "Attached", "NotAttached")
	a.Metadata.DeletionTimestamp = timestamppb.New(epoch)
	if !w.pass(t.Context(), a) || !w.holders["data"].GetActive() {
		t.Errorf("the VM loses a disk that it runs with: %v", w.holders["data"])
	}
}

func TestAttachmentsExcludeEachOther(t *testing.T) {
	w := newWorld(t)
	first := w.attach("first", "data", "web")
	second := w.attach("second", "data", "db")
	third := w.attach("third", "data", "web")
	w.want(second, failed, "Attached", "Conflict")
	w.want(first, attached, "Attached", "Attached")
	w.want(w.attach("own", "web-root", "web"), failed, "Attached", "Conflict")
	third.Metadata.DeletionTimestamp = timestamppb.New(epoch)
	w.pass(t.Context(), third)
	w.wantPlugged("web") // it was never the third one's
	first.Metadata.DeletionTimestamp = timestamppb.New(epoch)
	w.pass(t.Context(), first)
	w.want(second, attached, "Attached", "Attached")
	w.wantPlugged("db")
}

func TestAdmission(t *testing.T) {
	w := newWorld(t)
	w.attach("first", "data", "web")
	off := false
	w.vms["old"] = &vmv1.VirtualMachine{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: "old"},
		Spec:     &vmv1.VirtualMachineSpec{EnableParavirtualization: &off},
	}
	w.vms["full"] = &vmv1.VirtualMachine{Metadata: &metav1.ObjectMeta{Namespace: "default", Name: "full"}, Spec: &vmv1.VirtualMachineSpec{}}
	for i := range 16 {
		w.attach("full-"+string(rune('a'+i)), "disk-"+string(rune('a'+i)), "full")
	}
	for name, test := range map[string]struct{ a, field string }{
		"another disk":          {"x other web", ""},
		"a VM that may come":    {"x other none", ""},
		"the same disk":         {"x data web", "spec.blockDeviceRef"},
		"the disk of another":   {"x data db", "spec.blockDeviceRef"},
		"the VM's own":          {"x web-root web", "spec.blockDeviceRef"},
		"an emulated machine":   {"x other old", "spec.virtualMachineName"},
		"one device too many":   {"x other full", "spec.virtualMachineName"},
		"itself, when it is on": {"first data web", ""},
	} {
		var parts [3]string
		copy(parts[:], strings.Fields(test.a))
		err := w.r.Admit(t.Context(), nil, newAttachment(parts[0], parts[1], parts[2]))
		if f := fault.From(err); (test.field == "") != (err == nil) || f != nil && f.Fields[0].Path != test.field {
			t.Errorf("%s: %v", name, err)
		}
	}
	last := w.attach("last", "data-2", "full")
	w.states["data-2"] = w.states["data"]
	w.want(last, pending, "DiskAttachmentCapacityAvailableType", "CapacityReached")
}

func TestProcessThatDiesInAnyStepIsFollowedByOneThatGoesOn(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many rounds: not in the fast run")
	}
	for cut := 1; ; cut++ {
		w := newWorld(t)
		a := w.attach("a", "data", "web")
		w.cutAt = cut
		die := func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w.cut = cancel
			w.pass(ctx, a)
		}
		die()
		w.want(a, attached, "Attached", "Attached")
		w.wantPlugged("web")
		a.Metadata.DeletionTimestamp = timestamppb.New(epoch)
		die()
		if len(w.all) > 0 && !w.pass(t.Context(), a) {
			t.Errorf("cut at %d: it stays", cut)
		}
		w.wantPlugged("")
		if cut > w.steps {
			return
		}
	}
}
