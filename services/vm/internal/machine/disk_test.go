package machine_test

import (
	"context"
	"slices"
	"testing"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/power"
)

const disk = "VirtualDisk root"

// consumer is the node of the VM that the disk is being made for.
func (w *world) consumer() string {
	for _, h := range w.devices.holders[disk] {
		if h.GetActive() {
			return h.GetNode()
		}
	}
	return ""
}

// makeDisk does what the disk service does for a first consumer.
func (w *world) makeDisk() {
	if node := w.consumer(); w.devices.unmade[disk] && node != "" {
		delete(w.devices.unmade, disk)
		w.devices.nodes[disk] = node
	}
}

func TestDiskIsMadeWhereItsFirstVMIsPlaced(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.devices.unmade[disk] = true
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Pending)
	w.wantCondition("BlockDevicesReady", "WaitingForTheProvisioningToPersistentVolumeClaim",
		"Waits for block devices: VirtualDisk root is WaitForFirstConsumer")
	node := w.consumer()
	if node == "" || w.engine.Starts() != 0 {
		t.Fatalf("the disk is wanted on %q, and there were %d starts", node, w.engine.Starts())
	}
	w.settle() // again is no harm
	w.makeDisk()
	w.run()
	if got := w.vm.GetStatus().GetNodeName(); got != node || w.engine.Starts() != 1 {
		t.Errorf("the VM runs on %s after %d starts, its disk is on %s", got, w.engine.Starts(), node)
	}
	w.wantClaims(true, disk)
}

func TestDiskOfAVMThatIsOffIsNotMade(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.devices.unmade[disk] = true
	w.change(func(s *vmv1.VirtualMachineSpec) { s.RunPolicy = vmv1.RunPolicy_AlwaysOff })
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Stopped)
	w.wantClaims(false, disk)
}

func TestVMThatIsStoppedOrChangedWhileItsDiskIsMadeGivesUpItsPlace(t *testing.T) {
	client := etcdtest.Start(t)
	for name, change := range map[string]func(*vmv1.VirtualMachineSpec){
		"stopped": func(s *vmv1.VirtualMachineSpec) { s.RunPolicy = vmv1.RunPolicy_AlwaysOff },
		"changed": func(s *vmv1.VirtualMachineSpec) { s.NodeSelector = map[string]string{"nowhere": "to be found"} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, client)
			w.devices.unmade[disk] = true
			w.settle()
			w.change(change)
			w.settle()
			w.wantClaims(false, disk)
		})
	}
}

func TestVMStartsWhereItsDiskIs(t *testing.T) {
	client := etcdtest.Start(t)
	for _, node := range []string{"node-1", "node-2"} {
		w := newWorld(t, client)
		w.devices.nodes[disk] = node
		w.run()
		if got := w.vm.GetStatus().GetNodeName(); got != node {
			t.Errorf("it runs on %s, its disk is on %s", got, node)
		}
	}
	w := newWorld(t, client)
	w.devices.nodes[disk] = "node-9"
	w.settle()
	w.wantCondition("Running", "PodNotStarted",
		"no node fits: node-1 does not reach VirtualDisk root, which is on node-9; node-2 does not reach VirtualDisk root, which is on node-9")
}

func TestPlacingForADiskSurvivesDeathBetweenAnyTwoSteps(t *testing.T) {
	client := etcdtest.Start(t)
	for at := 1; ; at++ {
		w := newWorld(t, client)
		w.devices.unmade[disk] = true
		ctx, cut := context.WithCancel(t.Context())
		w.wire.steps, w.wire.cutAt, w.wire.cut = 0, at, cut
		for range 10 {
			if _, err := w.pass(ctx); err != nil && ctx.Err() == nil {
				t.Fatal(err)
			}
			w.makeDisk()
		}
		died := ctx.Err() != nil
		cut()
		w.wire.cutAt = 0
		for range 3 {
			w.settle()
			w.makeDisk()
		}
		w.run()
		w.wantClaims(true, disk)
		if w.engine.Starts() != 1 || w.vm.GetStatus().GetNodeName() != w.devices.nodes[disk] {
			t.Fatalf("step %d: %d starts, on %s, the disk on %s", at, w.engine.Starts(), w.vm.GetStatus().GetNodeName(), w.devices.nodes[disk])
		}
		if !died {
			return
		}
	}
}

// growing asks for a larger disk.
func (w *world) growing(bytes int64) {
	state := w.devices.states[disk]
	state.Grows = true
	w.devices.states[disk] = state
	w.devices.wanted = map[string]int64{disk: bytes}
}

func TestDiskGrowsUnderARunningVM(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	w.growing(2 * gib)
	w.engine.Set(w.uid(), machine.Sight{State: machine.Unresponsive})
	w.settle()
	if got := w.engine.Size("virtualdisk/root"); got != 0 {
		t.Fatalf("a QEMU that does not answer made it %d bytes", got)
	}
	w.engine.Set(w.uid(), machine.Sight{State: machine.Running})
	w.wire.fail = map[string]error{"Engine.Grow": fault.New(fault.Transient, "VirtualDiskResizingFailed", "not now")}
	if _, err := w.pass(t.Context()); !fault.Is(err, fault.Transient) {
		t.Fatalf("got %v", err)
	}
	w.wantPhase(vmv1.VirtualMachinePhase_Running)
	w.wire.fail = nil
	w.run()
	if got := w.engine.Size("virtualdisk/root"); got != 2*gib {
		t.Errorf("it has %d bytes", got)
	}
	w.wantClaims(true, disk)
}

func TestGrowthIsToldWhereverTheProcessDied(t *testing.T) {
	client := etcdtest.Start(t)
	for at := 1; ; at++ {
		w := newWorld(t, client)
		w.run()
		w.growing(2 * gib)
		ctx, cut := context.WithCancel(t.Context())
		w.wire.steps, w.wire.cutAt, w.wire.cut = 0, at, cut
		_, _ = w.pass(ctx)
		died := ctx.Err() != nil
		cut()
		w.wire.steps, w.wire.cutAt = 0, 0
		if _, err := w.pass(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Two claims, and the growth between them, each in two steps.
		if w.engine.Size("virtualdisk/root") != 2*gib || w.wire.steps != 6 {
			t.Fatalf("step %d: %d bytes, told in %d steps", at, w.engine.Size("virtualdisk/root"), w.wire.steps)
		}
		if !died {
			return
		}
	}
}

func TestVMHasItsAttachmentsAgainInTheirOrder(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	for _, name := range []string{"a", "b", "c"} {
		w.devices.add("VirtualDisk " + name)
		w.attached = append(w.attached, machine.Attachment{Name: "attach-" + name, Ref: diskRef(name)})
	}
	w.run()
	for _, name := range []string{"b", "a"} {
		device, err := w.devices.Claim(t.Context(), diskRef(name), machine.User(w.vm, w.record()))
		if err != nil {
			t.Fatal(err)
		}
		device.ID = machine.DeviceID(diskRef(name))
		if err := w.engine.Plug(t.Context(), w.uid(), device); err != nil {
			t.Fatal(err)
		}
	}
	w.settle()
	w.wantTargets("root sda", "b sdb attach-b", "a sdc attach-a")
	w.engine.Set(w.uid(), machine.Sight{State: machine.Running, Agent: &machine.Agent{
		Targets: map[string]string{"virtualdisk/a": "sdx"},
	}})
	w.settle()
	w.wantTargets("root sda", "b sdb attach-b", "a sdx attach-a") // the guest knows better

	w.ask(stopped)
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Stopped)
	w.wantTargets("root ")
	w.wantClaims(false, "VirtualDisk a", "VirtualDisk b", "VirtualDisk c", disk)

	w.attached = w.attached[:2] // c is detached
	w.ask(started)
	w.run()
	w.wantTargets("root sda", "b sdb attach-b", "a sdc attach-a")
	w.wantClaims(true, "VirtualDisk a", "VirtualDisk b", disk)

	// One that can't be had does not keep the VM down.
	w.ask(stopped)
	w.settle()
	w.devices.unmade["VirtualDisk b"] = true
	w.ask(started)
	w.run()
	w.wantTargets("root sda", "a sdb attach-a")
	w.delete()
	w.wantGone()
}

func (w *world) record() *power.Record {
	w.t.Helper()
	record, err := w.power.Get(w.t.Context(), w.uid())
	if err != nil {
		w.t.Fatal(err)
	}
	return record
}

// wantTargets says which devices the status shows.
func (w *world) wantTargets(want ...string) {
	w.t.Helper()
	var got []string
	for _, d := range w.vm.GetStatus().GetBlockDeviceRefs() {
		text := d.GetName() + " " + d.GetTarget()
		if d.GetHotplugged() {
			text += " " + d.GetVirtualMachineBlockDeviceAttachmentName()
		}
		got = append(got, text)
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("devices are %q, want %q", got, want)
	}
}
