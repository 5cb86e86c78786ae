package machine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/power"
)

func TestStartWaitsForEachDependencyAndSaysWhich(t *testing.T) {
	client := etcdtest.Start(t)
	unbound := func(w *world) {
		address := w.addresses.add("web-auto")
		address.Status.Phase, address.Status.Address = networkv1.IPAddressPhase_Pending, ""
	}
	for _, test := range []struct {
		name                       string
		lack, give                 func(w *world)
		condition, reason, message string
	}{
		{
			"a class", func(w *world) { delete(w.classes, "generic") },
			func(w *world) {
				w.classes["generic"] = &vmv1.VirtualMachineClass{Status: &vmv1.VirtualMachineClassStatus{Phase: vmv1.ClassPhase_Ready}}
			},
			"VirtualMachineClassReady", "VirtualMachineClassNotReady", "VirtualMachineClass generic does not exist.",
		},
		{
			"a class that is Ready", func(w *world) { w.classes["generic"].Status.Phase = vmv1.ClassPhase_Pending },
			func(w *world) { w.classes["generic"].Status.Phase = vmv1.ClassPhase_Ready },
			"VirtualMachineClassReady", "VirtualMachineClassNotReady", "VirtualMachineClass generic is not Ready: Pending",
		},
		{
			"a size that the class allows",
			func(w *world) {
				w.classes["generic"].Spec.SizingPolicies = []*vmv1.SizingPolicy{{Cores: &vmv1.SizingCores{Min: 2, Max: 4}}}
			},
			func(w *world) { w.change(func(s *vmv1.VirtualMachineSpec) { s.Cpu.Cores = 2 }) },
			"SizingPolicyMatched", "SizingPolicyNotMatched",
			"Class generic does not allow this size: spec.cpu.cores is 1, and the class has 2 to 4",
		},
		{
			"a disk", func(w *world) { delete(w.devices.states, "VirtualDisk root") },
			func(w *world) { w.devices.add("VirtualDisk root") },
			"BlockDevicesReady", "BlockDevicesNotReady", "Waits for block devices: VirtualDisk root does not exist",
		},
		{
			"a disk that is Ready",
			func(w *world) {
				w.devices.states["VirtualDisk root"] = machine.DeviceState{
					Found: true, Phase: "Provisioning", Message: "waits for VirtualImage ubuntu: Provisioning, 41.0%",
				}
			},
			func(w *world) { w.devices.add("VirtualDisk root") },
			"BlockDevicesReady", "BlockDevicesNotReady",
			"Waits for block devices: VirtualDisk root is Provisioning: waits for VirtualImage ubuntu: Provisioning, 41.0%",
		},
		{
			"a disk that nobody else uses",
			func(w *world) {
				w.devices.holders["VirtualDisk root"] = []*metav1.Holder{{Kind: "VirtualMachine", Name: "other", Uid: "other", Active: true}}
			},
			func(w *world) { w.devices.drop("VirtualDisk root", "other") },
			"BlockDevicesReady", "BlockDevicesNotReady", "Waits for block devices: VirtualDisk root is in use by VirtualMachine other",
		},
		{
			"a Secret with its script", func(w *world) { w.vm.Spec.Provisioning = userDataFrom("script") },
			func(w *world) { w.secrets["script"] = cloudInit("userData", "#cloud-config") },
			"ProvisioningReady", "ProvisioningNotReady", "Secret script does not exist.",
		},
		{
			"a Secret of the right type",
			func(w *world) {
				w.vm.Spec.Provisioning = userDataFrom("script")
				w.secrets["script"] = &secretv1.Secret{Type: "Opaque", Data: map[string][]byte{"userData": []byte("hunter2")}}
			},
			func(w *world) { w.secrets["script"] = cloudInit("userdata", "#cloud-config") },
			"ProvisioningReady", "ProvisioningNotReady", "Secret script is of type Opaque and must be of type " +
				"provisioning.virtualization.deckhouse.io/cloud-init: a Secret's type can't be changed, make it anew.",
		},
		{
			"a Secret with the right key",
			func(w *world) {
				w.vm.Spec.Provisioning = userDataFrom("script")
				w.secrets["script"] = cloudInit("user-data", "hunter2")
			},
			func(w *world) { w.secrets["script"] = cloudInit("userData", "") },
			"ProvisioningReady", "ProvisioningNotReady", "Secret script has no key userData or userdata.",
		},
		{
			"a Secret with answers",
			func(w *world) {
				w.vm.Spec.Provisioning = &vmv1.Provisioning{
					Type: vmv1.ProvisioningType_SysprepRef, SysprepRef: &vmv1.SecretRef{Kind: vmv1.SecretKind_Secret, Name: "answers"},
				}
				w.secrets["answers"] = &secretv1.Secret{Type: "provisioning.virtualization.deckhouse.io/sysprep"}
			},
			func(w *world) {
				w.secrets["answers"].Data = map[string][]byte{"autounattend.xml": []byte("<unattend/>")}
			},
			"ProvisioningReady", "ProvisioningNotReady", "Secret answers has nothing under unattend.xml or autounattend.xml.",
		},
		{
			"Kubernetes, which has the Secret",
			func(w *world) { w.vm.Spec.Provisioning, w.r.Secrets = userDataFrom("script"), nil },
			func(w *world) { w.change(func(s *vmv1.VirtualMachineSpec) { s.Provisioning = nil }) },
			"ProvisioningReady", "ProvisioningNotReady",
			"spec.provisioning.userDataRef needs a Kubernetes API, which has the Secret; there is none here: use type UserData",
		},
		{
			"an address that is named", func(w *world) { w.vm.Spec.VirtualMachineIpAddressName = "mine" },
			func(w *world) { w.addresses.add("mine") },
			"VirtualMachineIPAddressReady", "VirtualMachineIPAddressNotReady", "VirtualMachineIPAddress mine does not exist.",
		},
		{
			"an address that is bound", unbound, func(w *world) { w.addresses.add("web-auto") },
			"VirtualMachineIPAddressReady", "VirtualMachineIPAddressNotReady", "VirtualMachineIPAddress web-auto has no address yet.",
		},
		{
			"an address that is nobody else's",
			func(w *world) {
				w.addresses.add("web-auto").Metadata.Holders = []*metav1.Holder{{Kind: "VirtualMachine", Name: "other", Uid: "other"}}
			},
			func(w *world) { w.addresses.all["web-auto"].Metadata.Holders = nil },
			"VirtualMachineIPAddressReady", "VirtualMachineIPAddressNotAvailable",
			"VirtualMachineIPAddress web-auto belongs to VirtualMachine other.",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, client)
			test.lack(w)
			w.settle()
			w.wantPhase(vmv1.VirtualMachinePhase_Pending)
			w.wantCondition(test.condition, test.reason, test.message)
			if w.engine.Starts() != 0 {
				t.Fatal("it was started")
			}
			test.give(w)
			w.run()
			w.wantCondition(test.condition, test.condition, "")
			w.wantClaims(true, "VirtualDisk root")
		})
	}
}

func TestFirstStatusesOfAVM(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	if _, err := w.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantPhase(vmv1.VirtualMachinePhase_Pending) // its address is being made
	w.run()
	status := w.vm.GetStatus()
	if status.GetNodeName() != "node-1" && status.GetNodeName() != "node-2" {
		t.Errorf("node is %q", status.GetNodeName())
	}
	if status.GetIpAddress() != "10.66.10.10" || status.GetVirtualMachineIpAddressName() != "web-auto" || w.addresses.made != 1 {
		t.Errorf("address %s, %s, made %d times", status.GetIpAddress(), status.GetVirtualMachineIpAddressName(), w.addresses.made)
	}
	device := status.GetBlockDeviceRefs()[0]
	if device.GetTarget() != "sda" || !device.GetAttached() || device.GetSize() != "1Gi" {
		t.Errorf("device is %v", device)
	}
	w.wantCondition("AwaitingRestartToApplyConfiguration", "NoNeedRestart", "")
	w.wantCondition("Running", "VirtualMachineRunning", "")
	if w.after != 0 {
		t.Errorf("a VM that runs is looked at again after %s", w.after)
	}
}

func TestStartSurvivesDeathBetweenAnyTwoSteps(t *testing.T) {
	client := etcdtest.Start(t)
	for at := 1; ; at++ {
		w := newWorld(t, client)
		ctx, cut := context.WithCancel(t.Context())
		w.wire.cutAt, w.wire.cut = at, cut
		for range 10 {
			if _, _ = w.pass(ctx); ctx.Err() != nil {
				break
			}
		}
		died := ctx.Err() != nil
		cut()
		if !died {
			if at < 8 {
				t.Fatalf("a start takes %d steps only", at-1)
			}
			return
		}
		t.Run(fmt.Sprintf("step %d", at), func(t *testing.T) {
			w.t, w.wire.cutAt = t, 0
			w.run()
			w.wantClaims(true, "VirtualDisk root")
			if sight, _ := w.engine.Look(t.Context(), w.uid()); sight.State != machine.Running || w.engine.Starts() != 1 {
				t.Errorf("%v after %d starts", sight, w.engine.Starts())
			}
			w.delete()
			w.wantGone()
		})
	}
}

func TestFailedStartGivesItsClaimsBackAndIsRepeatedWithPauses(t *testing.T) {
	client := etcdtest.Start(t)
	for call, class := range map[string]fault.Class{
		"Devices.Claim active": fault.NotReady, "Addresses.Claim active": fault.Transient, "Engine.Start": fault.Invalid,
	} {
		t.Run(call, func(t *testing.T) {
			w := newWorld(t, client)
			w.vm.Spec.RunPolicy = vmv1.RunPolicy_Manual
			w.settle() // the claims that only refer are there
			w.ask(started)
			w.wire.fail = map[string]error{call: fault.New(class, "Broken", "it broke")}
			for pause := time.Second; pause < 4*time.Minute; pause *= 2 {
				if _, err := w.pass(t.Context()); err == nil {
					t.Fatal("the cause is not told")
				}
				w.wantPhase(vmv1.VirtualMachinePhase_Pending)
				w.wantCondition("Running", "Broken", "it broke")
				w.wantClaims(false, "VirtualDisk root")
				// Whatever wakes it up, it waits, and goes on saying why.
				w.settle()
				w.wantCondition("Running", "Broken", "it broke")
				if want := min(pause, time.Minute); w.after != want {
					t.Fatalf("it waits %s, not %s", w.after, want)
				}
				w.now = w.now.Add(w.after)
			}
			w.wire.fail = nil
			w.now = w.now.Add(time.Minute)
			w.run()
			record, err := w.power.Get(t.Context(), w.uid())
			if err != nil || record.Failure != nil {
				t.Errorf("the failure is remembered: %v, %v", record.Failure, err)
			}
		})
	}
}

func TestChangedSpecEndsThePauseAfterAFailedStart(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.settle()
	w.ask(func(r *power.Record) {
		later := w.now.Add(time.Hour)
		r.NotBefore, r.Failure = &later, &power.Failure{Reason: "Broken", Message: "it broke", Count: 9, Generation: 1}
	})
	w.engine.Set(w.uid(), machine.Sight{State: machine.Absent})
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Pending)
	w.change(func(s *vmv1.VirtualMachineSpec) { s.Memory.Size = "512Mi" })
	w.run()
}

func TestVMWithoutANodeSaysWhy(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.vm.Spec.Memory.Size = "5Gi"
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Pending)
	w.wantCondition("Running", "PodNotStarted", "no node fits: node-1 has 4Gi of memory left, 5220Mi are needed; "+
		"node-2 has 4Gi of memory left, 5220Mi are needed")
	w.wantClaims(false, "VirtualDisk root")
}

func TestOfTwoVMsWithOneDiskTheSecondWaits(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	first := w.vm
	w.vm = newMachine("second")
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Pending)
	w.wantCondition("BlockDevicesReady", "BlockDevicesNotReady",
		"Waits for block devices: VirtualDisk root is in use by VirtualMachine web")
	second := w.vm
	w.vm = first
	w.ask(stopped)
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Stopped)
	w.vm = second
	w.run()
	if w.engine.Starts() != 2 {
		t.Errorf("%d starts", w.engine.Starts())
	}
}

func TestRecordWithoutAnInstanceIsBegunAnew(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.run()
	if err := w.engine.Kill(t.Context(), w.uid()); err != nil { // with all traces
		t.Fatal(err)
	}
	w.run()
	if w.engine.Starts() != 2 {
		t.Errorf("%d starts", w.engine.Starts())
	}
}
