package machine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/machine/machinetest"
	"orlop.dev/services/vm/internal/migration"
	"orlop.dev/services/vm/internal/node"
	"orlop.dev/services/vm/internal/placement"
	"orlop.dev/services/vm/internal/power"
)

const gib = 1 << 30

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is one VM, all that it needs, and a clock. The power records are in a
// real etcd; the guests, disks and addresses exist in memory.
type world struct {
	t         *testing.T
	vm        *vmv1.VirtualMachine
	r         *machine.Reconciler
	engine    *machinetest.Engine
	wire      *wire
	devices   *devices
	addresses *addresses[*networkv1.VirtualMachineIPAddress]
	macs      *addresses[*networkv1.VirtualMachineMACAddress]
	secrets   secrets
	discarded string // whose non-volatile parts are gone
	thawed    int
	classes   map[string]*vmv1.VirtualMachineClass
	power     *power.Store
	attached  []machine.Attachment
	nodes     []node.Node
	now       time.Time
	after     time.Duration
}

// newWorld has a VM that could run at once.
func newWorld(t *testing.T, client *clientv3.Client) *world {
	w := &world{
		t: t, engine: new(machinetest.Engine), now: epoch, wire: new(wire),
		power: power.NewStore(client, "/"+uuid.NewString()),
		classes: map[string]*vmv1.VirtualMachineClass{"generic": {
			Metadata: &metav1.ObjectMeta{Name: "generic"}, Spec: &vmv1.VirtualMachineClassSpec{},
			Status: &vmv1.VirtualMachineClassStatus{Phase: vmv1.ClassPhase_Ready},
		}},
	}
	w.devices = &devices{wire: w.wire, states: map[string]machine.DeviceState{}, holders: map[string][]*metav1.Holder{}}
	w.devices.unmade, w.devices.nodes, w.devices.copies = map[string]bool{}, map[string]string{}, map[string]string{}
	w.secrets = secrets{}
	w.addresses, w.macs = ipAddresses(w.wire), macAddresses(w.wire)
	w.devices.add("VirtualDisk root")
	w.r = &machine.Reconciler{
		Classes: w, Devices: w.devices, Allocator: w, Addresses: w.addresses, MACs: w.macs, Attachments: w, Secrets: w.secrets, NonVolatile: w, Rest: w,
		Overhead: func(*vmv1.VirtualMachineSpec) int64 { return 100 << 20 }, Engine: &mortal{Engine: w.engine, wire: w.wire}, Power: w.power,
		Survey: &placement.Survey{
			Nodes: func(context.Context) ([]node.Node, error) { return w.nodes, nil }, Class: w.Class, Power: w.power,
			Machines: func(visit func(*vmv1.VirtualMachine)) error { visit(proto.CloneOf(w.vm)); return nil },
		},
		Now: func() time.Time { return w.now },
	}
	w.nodes = node.Simulate([]string{"node-1", "node-2"}, node.Demand{MilliCPU: 8000, MemoryBytes: 8 * gib})
	w.vm = newMachine("web")
	return w
}

func newMachine(name string) *vmv1.VirtualMachine {
	grace := int32(60)
	return &vmv1.VirtualMachine{
		ApiVersion: "virtualization.deckhouse.io/v1alpha2", Kind: "VirtualMachine",
		Metadata: &metav1.ObjectMeta{
			Namespace: "default", Name: name, Uid: uuid.NewString(), Generation: 1, CreationTimestamp: timestamppb.New(epoch),
		},
		Spec: &vmv1.VirtualMachineSpec{
			RunPolicy:               vmv1.RunPolicy_AlwaysOnUnlessStoppedManually,
			VirtualMachineClassName: "generic", Cpu: &vmv1.CPU{Cores: 1, CoreFraction: "100%"},
			Memory: &vmv1.Memory{Size: "1Gi"}, TerminationGracePeriodSeconds: &grace,
			BlockDeviceRefs: []*vmv1.BlockDeviceRef{{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "root"}},
		},
	}
}

// Class implements machine.Classes.
func (w *world) Class(name string) (*vmv1.VirtualMachineClass, bool) {
	class, found := w.classes[name]
	return class, found
}

// Of implements machine.Attachments.
func (w *world) Of(*vmv1.VirtualMachine) []machine.Attachment { return w.attached }

// Discard implements machine.NonVolatile.
func (w *world) Discard(ctx context.Context, uid string) error {
	return w.wire.around(ctx, "NonVolatile.Discard", func() error { w.discarded = uid; return nil })
}

// Thaw implements machine.Rest.
func (w *world) Thaw(ctx context.Context, _ string) error {
	return w.wire.around(ctx, "Rest.Thaw", func() error { w.thawed++; return nil })
}

// pass reconciles once, and writes the status as a loop does.
func (w *world) pass(ctx context.Context) (gone bool, err error) {
	result, err := w.r.Reconcile(ctx, proto.CloneOf(w.vm))
	if status, has := result.Status.(*vmv1.VirtualMachineStatus); has && ctx.Err() == nil {
		w.vm.Status = status
	}
	w.after = result.After
	return result.Finalized, err
}

// settle reconciles until there is nothing to do at once. Endless haste fails.
func (w *world) settle() (gone bool) {
	w.t.Helper()
	for range 20 {
		before := w.snapshot()
		gone, err := w.pass(w.t.Context())
		if gone {
			return true
		}
		if fault.Is(err, fault.Internal) {
			w.t.Fatal(err)
		}
		if w.after != time.Nanosecond && w.snapshot() == before {
			return false
		}
	}
	w.t.Fatalf("there is no end to it: %s", w.snapshot())
	return false
}

// snapshot is all that a pass might change.
func (w *world) snapshot() string {
	record, err := w.power.Get(w.t.Context(), w.uid())
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := json.Marshal(record)
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf("%v %v %s %v %v %d", w.vm.GetStatus().GetPhase(), w.devices.holders, text, w.addresses.all, w.macs.all, w.engine.Starts())
}

func (w *world) uid() string { return w.vm.GetMetadata().GetUid() }

func (w *world) wantPhase(want vmv1.VirtualMachinePhase_Value) {
	w.t.Helper()
	if got := w.vm.GetStatus().GetPhase(); got != want {
		w.t.Fatalf("phase is %s, want %s; conditions: %v", got, want, w.vm.GetStatus().GetConditions())
	}
}

func (w *world) wantCondition(name, reason, message string) {
	w.t.Helper()
	c := condition.Find(w.vm.GetStatus().GetConditions(), name)
	if c.GetReason() != reason || message != "" && c.GetMessage() != message {
		w.t.Fatalf("%s is %v, want reason %s, message %q", name, c, reason, message)
	}
}

// wantClaims says which of the VM's claims are there, and whether they are active.
func (w *world) wantClaims(active bool, devices ...string) {
	w.t.Helper()
	var held []string
	for name, holders := range w.devices.holders {
		for _, h := range holders {
			if h.GetUid() != w.uid() {
				continue
			}
			held = append(held, name)
			if h.GetActive() != active {
				w.t.Errorf("claim of %s: active is %v", name, h.GetActive())
			}
		}
	}
	slices.Sort(held)
	if !slices.Equal(held, devices) {
		w.t.Errorf("holds %v, want %v", held, devices)
	}
}

// run settles a VM and says that it runs.
func (w *world) run() {
	w.t.Helper()
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Running)
}

// change changes the spec, as a user does.
func (w *world) change(how func(*vmv1.VirtualMachineSpec)) {
	how(w.vm.Spec)
	w.vm.Metadata.Generation++
}

func (w *world) delete() { w.vm.Metadata.DeletionTimestamp = timestamppb.New(w.now) }

// ask does what an operation does.
func (w *world) ask(change func(*power.Record)) {
	w.t.Helper()
	if err := w.power.Change(w.t.Context(), w.uid(), change); err != nil {
		w.t.Fatal(err)
	}
}

func stopped(r *power.Record) { off := false; r.On = &off }
func started(r *power.Record) { on := true; r.On = &on }

// wire is cut after some more steps, which is how a process dies.
type wire struct {
	steps int
	cutAt int // 0 never
	cut   context.CancelFunc
	// fail is what calls of that name come to.
	fail map[string]error
}

func (w *wire) step(ctx context.Context, name string) error {
	w.steps++
	if w.cutAt != 0 && w.steps == w.cutAt {
		w.cut()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.fail[name]
}

// around runs an effect between two steps.
func (w *wire) around(ctx context.Context, name string, effect func() error) error {
	if err := w.step(ctx, name); err != nil {
		return err
	}
	if err := effect(); err != nil {
		return err
	}
	return w.step(ctx, "after "+name)
}

// use tells claims of a VM that runs from those that only refer.
func use(holder *metav1.Holder) string {
	if holder.GetActive() {
		return " active"
	}
	return ""
}

// mortal is an engine whose caller can die.
type mortal struct {
	machine.Engine
	wire *wire
}

func (m *mortal) Start(ctx context.Context, instance machine.Instance) error {
	return m.wire.around(ctx, "Engine.Start", func() error { return m.Engine.Start(ctx, instance) })
}

func (m *mortal) Recall(ctx context.Context, instance machine.Instance, token string) (atRest bool, err error) {
	err = m.wire.around(ctx, "Engine.Recall", func() error {
		atRest, err = m.Engine.Recall(ctx, instance, token)
		return err
	})
	return atRest, err
}

func (m *mortal) Kill(ctx context.Context, uid string) error {
	return m.wire.around(ctx, "Engine.Kill", func() error { return m.Engine.Kill(ctx, uid) })
}

func (m *mortal) Powerdown(ctx context.Context, uid string) error {
	return m.wire.around(ctx, "Engine.Powerdown", func() error { return m.Engine.Powerdown(ctx, uid) })
}

func (m *mortal) Grow(ctx context.Context, uid, device string, virtualBytes int64) error {
	return m.wire.around(ctx, "Engine.Grow", func() error { return m.Engine.Grow(ctx, uid, device, virtualBytes) })
}

// devices are disks and images, by "kind name".
type devices struct {
	wire    *wire
	states  map[string]machine.DeviceState
	holders map[string][]*metav1.Holder
	blind   bool // claims are not seen yet
	// unmade are disks that wait for their first consumer, nodes where disks are
	// that one node reaches.
	unmade map[string]bool
	nodes  map[string]string
	// copies are where disks are copied to, empty while their files are made.
	copies map[string]string
	// wanted are the sizes that disks are to have.
	wanted map[string]int64
}

func nameOf(ref *vmv1.BlockDeviceRef) string { return ref.GetKind().String() + " " + ref.GetName() }

func (d *devices) add(name string) {
	d.states[name] = machine.DeviceState{Found: true, Ready: true, Size: "1Gi", Phase: "Ready"}
}

func (d *devices) State(ref *vmv1.BlockDeviceRef, _ string) machine.DeviceState {
	state := d.states[nameOf(ref)]
	for _, h := range d.holders[nameOf(ref)] {
		if h.GetActive() {
			state.HeldBy = h
		}
	}
	if d.unmade[nameOf(ref)] {
		state.Ready, state.InMaking, state.AwaitsConsumer = false, true, state.HeldBy == nil
		state.Phase = "WaitForFirstConsumer"
	}
	return state
}

func (d *devices) Claim(ctx context.Context, ref *vmv1.BlockDeviceRef, holder *metav1.Holder) (machine.Device, error) {
	name := nameOf(ref)
	device := machine.Device{ID: machine.DeviceID(ref), Path: "/disks/" + ref.GetName(), Format: "qcow2", Node: d.nodes[name], GrowTo: d.wanted[name]}
	if d.unmade[name] {
		device.Path = ""
	}
	d.copy(name, holder, &device)
	return device, d.wire.around(ctx, "Devices.Claim"+use(holder), func() error {
		for _, h := range d.holders[name] {
			if holder.GetActive() && h.GetActive() && h.GetUid() != holder.GetUid() {
				return fault.New(fault.NotReady, "VirtualDiskAlreadyInUse", "disk %s is in use by %s", ref.GetName(), h.GetName())
			}
		}
		d.drop(name, holder.GetUid())
		d.holders[name] = append(d.holders[name], holder)
		return nil
	})
}

// copy has a file ready, for a disk that one node reaches and a VM that leaves it,
// when it is asked for a second time. The disk is where the VM then is.
func (d *devices) copy(name string, holder *metav1.Holder, device *machine.Device) {
	target, asked := d.copies[name]
	switch node := d.nodes[name]; {
	case node == "" || !holder.GetActive():
	case holder.GetTargetNode() == "":
		if target != "" {
			d.nodes[name] = holder.GetNode()
		}
		delete(d.copies, name)
	case !asked:
		d.copies[name] = ""
	default:
		d.copies[name] = holder.GetTargetNode()
		device.Copy = migration.Copy{Device: device.ID, Path: "/copies/" + name, Mark: "/marks/" + name}
	}
}

func (d *devices) Release(ctx context.Context, ref *vmv1.BlockDeviceRef, holder *metav1.Holder) error {
	return d.wire.around(ctx, "Devices.Release", func() error { d.drop(nameOf(ref), holder.GetUid()); return nil })
}

func (d *devices) drop(name, uid string) {
	d.holders[name] = slices.DeleteFunc(d.holders[name], func(h *metav1.Holder) bool { return h.GetUid() == uid })
	if len(d.holders[name]) == 0 {
		delete(d.holders, name)
	}
}

func (d *devices) Held(holder *metav1.Holder) []machine.HeldDevice {
	var held []machine.HeldDevice
	for name, holders := range d.holders {
		for _, h := range holders {
			if h.GetUid() == holder.GetUid() && !d.blind {
				var kind, object string
				_, _ = fmt.Sscan(name, &kind, &object)
				ref := &vmv1.BlockDeviceRef{Kind: vmv1.BlockDeviceKind_Value(vmv1.BlockDeviceKind_Value_value[kind]), Name: object}
				held = append(held, machine.HeldDevice{Ref: ref, Active: h.GetActive()})
			}
		}
	}
	return held
}

// addresses are a network service in which every address is bound at once.
type addresses[T resource.Object] struct {
	wire *wire
	name string
	// bound makes the address that has a place in the order of making.
	bound func(meta *metav1.ObjectMeta, place int) T
	all   map[string]T
	made  int
}

func ipAddresses(wire *wire) *addresses[*networkv1.VirtualMachineIPAddress] {
	return &addresses[*networkv1.VirtualMachineIPAddress]{
		wire: wire, name: "Addresses", all: map[string]*networkv1.VirtualMachineIPAddress{},
		bound: func(meta *metav1.ObjectMeta, place int) *networkv1.VirtualMachineIPAddress {
			return &networkv1.VirtualMachineIPAddress{Metadata: meta, Status: &networkv1.VirtualMachineIPAddressStatus{
				Phase: networkv1.IPAddressPhase_Bound, Address: fmt.Sprintf("10.66.10.%d", 10+place),
			}}
		},
	}
}

func macAddresses(wire *wire) *addresses[*networkv1.VirtualMachineMACAddress] {
	return &addresses[*networkv1.VirtualMachineMACAddress]{
		wire: wire, name: "MACs", all: map[string]*networkv1.VirtualMachineMACAddress{},
		bound: func(meta *metav1.ObjectMeta, place int) *networkv1.VirtualMachineMACAddress {
			return &networkv1.VirtualMachineMACAddress{Metadata: meta, Status: &networkv1.VirtualMachineMACAddressStatus{
				Phase: networkv1.IPAddressPhase_Bound, Address: fmt.Sprintf("02:00:00:00:00:%02x", 1+place),
			}}
		},
	}
}

func (a *addresses[T]) Find(vm *vmv1.VirtualMachine, name string) T {
	if name == "" {
		name = vm.GetMetadata().GetName() + "-auto"
	}
	return a.all[name]
}

func (a *addresses[T]) add(name string) T {
	address := a.bound(&metav1.ObjectMeta{Namespace: "default", Name: name, Uid: name}, len(a.all))
	a.all[name] = address
	return address
}

// Allocate implements machine.Allocator.
func (w *world) Allocate(ctx context.Context, vm *vmv1.VirtualMachine, ip, mac bool) error {
	return w.wire.around(ctx, "Allocate", func() error {
		name := vm.GetMetadata().GetName() + "-auto"
		if ip {
			w.addresses.add(name)
			w.addresses.made++
		}
		if mac {
			w.macs.add(name)
			w.macs.made++
		}
		return nil
	})
}

func (a *addresses[T]) Claim(ctx context.Context, address T, holder *metav1.Holder) (*networkv1.Port, error) {
	port := &networkv1.Port{MacAddress: "02:00:00:00:00:01", Address: "10.66.10.10/24"}
	return port, a.wire.around(ctx, a.name+".Claim"+use(holder), func() error {
		meta := a.all[address.GetMetadata().GetName()].GetMetadata()
		for _, other := range meta.GetHolders() {
			if other.GetUid() != holder.GetUid() {
				return fault.New(fault.NotReady, address.GetKind()+"AlreadyInUse", "it is another's")
			}
		}
		meta.Holders = []*metav1.Holder{holder}
		return nil
	})
}

func (a *addresses[T]) Release(ctx context.Context, address T, holder *metav1.Holder) error {
	return a.wire.around(ctx, a.name+".Release", func() error {
		meta := a.all[address.GetMetadata().GetName()].GetMetadata()
		meta.Holders = slices.DeleteFunc(meta.GetHolders(), func(h *metav1.Holder) bool { return h.GetUid() == holder.GetUid() })
		return nil
	})
}

func (a *addresses[T]) Held(holder *metav1.Holder) []T {
	var held []T
	for _, address := range a.all {
		for _, h := range address.GetMetadata().GetHolders() {
			if h.GetUid() == holder.GetUid() {
				held = append(held, resource.Clone(address))
			}
		}
	}
	return held
}
