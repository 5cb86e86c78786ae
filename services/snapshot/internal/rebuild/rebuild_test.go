package rebuild_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/snapshot/internal/rebuild"
)

// passes bounds the steps of a job: more means that it never ends.
const passes = 30

func jobNamed(change func(*rebuild.Job)) *rebuild.Job {
	job := &rebuild.Job{
		Owner:    &metav1.Holder{Kind: "VirtualMachineRestore", Namespace: namespace, Name: "again", Uid: uuid.NewString()},
		Snapshot: "monday",
	}
	change(job)
	return job
}

func inPlace(job *rebuild.Job) { job.InPlace = true }

func asCopy(job *rebuild.Job) { job.Fresh, job.Names.Prefix = true, "copy-" }

// run steps until the job is made or failed, through the one kill that the world
// has for it.
func (w *world) run(job *rebuild.Job) *rebuild.Progress {
	w.t.Helper()
	for range passes {
		o, err := w.engine.Step(w.t.Context(), job)
		switch {
		case errors.Is(err, errKilled):
			continue
		case err != nil:
			w.t.Fatal(err)
		case o.Record.Made || o.Failed():
			return o
		}
	}
	w.t.Fatalf("the job does not end: there are %s", w.names())
	return nil
}

func TestAllThatStandsInTheWayIsToldAtOnceAndNothingIsMade(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.secrets["cloud"].Data["user"] = []byte("another")
	before := w.names()
	o := w.run(jobNamed(func(job *rebuild.Job) {
		job.Names.Replacements = []rebuild.Replacement{{Name: "nothing", To: "x"}} // which is of no account
	}))
	if !o.Failed() || o.Record.Failure.Reason != rebuild.ReasonConflict {
		t.Fatalf("the record is %+v", o.Record)
	}
	for _, word := range []string{
		"VirtualMachine web exists", "VirtualDisk root exists", "VirtualDisk data exists",
		"VirtualMachineBlockDeviceAttachment web-data exists", "VirtualMachineIPAddress web-ip is attached to VirtualMachine web",
		"VirtualMachineMACAddress web-mac is attached to VirtualMachine web",
		"Secret cloud exists with another content",
	} {
		if !strings.Contains(o.Record.Failure.Message, word) {
			t.Errorf("%q is not told in %q", word, o.Record.Failure.Message)
		}
	}
	if w.names() != before || w.held != "" {
		t.Errorf("there are %s, held by %q", w.names(), w.held)
	}
}

func TestACopyHasNewNamesThroughout(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	if o := w.run(jobNamed(asCopy)); !o.Record.Made {
		t.Fatalf("the copy failed: %+v", o.Record.Failure)
	}
	vm, found := find[*vmv1.VirtualMachine](w, "copy-web")
	if !found || vm.GetSpec().GetBlockDeviceRefs()[0].GetName() != "copy-root" || vm.GetSpec().GetBlockDeviceRefs()[1].GetName() != "iso" ||
		vm.GetSpec().GetProvisioning().GetUserDataRef().GetName() != "copy-cloud" || vm.GetSpec().GetVirtualMachineIpAddressName() != "" || len(vm.GetSpec().GetNetworks()) != 0 {
		t.Errorf("the copy is %v", vm)
	}
	attachment, _ := find[*vmv1.VirtualMachineBlockDeviceAttachment](w, "copy-web-data")
	if attachment.GetSpec().GetVirtualMachineName() != "copy-web" || attachment.GetSpec().GetBlockDeviceRef().GetName() != "copy-data" {
		t.Errorf("the copied attachment is %v", attachment)
	}
	if w.content["copy-root"] != "from root-s" || w.secrets["copy-cloud"] == nil {
		t.Errorf("the disks have %v, the Secrets are %v", w.content, w.secrets)
	}
}

func TestAVMIsPutBackInPlace(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	vm, _ := find[*vmv1.VirtualMachine](w, "web")
	uid := vm.GetMetadata().GetUid()
	vm.Spec.Cpu.Cores = 4
	vm.Metadata.Labels = map[string]string{"app": "other", "kubectl.kubernetes.io/x": "stays"}
	later := &vmv1.VirtualMachineBlockDeviceAttachment{
		Kind: "VirtualMachineBlockDeviceAttachment", Metadata: &metav1.ObjectMeta{Namespace: namespace, Name: "later"},
		Spec: &vmv1.VirtualMachineBlockDeviceAttachmentSpec{VirtualMachineName: "web", BlockDeviceRef: &vmv1.AttachedBlockDeviceRef{Name: "more"}},
	}
	w.put(later)
	delete(w.objects, "VirtualDisk data")
	if o := w.run(jobNamed(inPlace)); !o.Record.Made {
		t.Fatalf("it failed: %+v", o.Record.Failure)
	}
	vm, _ = find[*vmv1.VirtualMachine](w, "web")
	if vm.GetMetadata().GetUid() != uid || vm.GetSpec().GetCpu().GetCores() != 1 {
		t.Errorf("the VM is %v", vm)
	}
	if labels := vm.GetMetadata().GetLabels(); labels["app"] != "web" || labels["kubectl.kubernetes.io/x"] != "stays" {
		t.Errorf("its labels are %v", labels)
	}
	if w.content["root"] != "snapshot-old root" || w.content["data"] != "from data-s" {
		t.Errorf("its disks have %v", w.content)
	}
	if w.memory != "memory" {
		t.Errorf("it goes on from %q", w.memory)
	}
	if _, found := find[*vmv1.VirtualMachineBlockDeviceAttachment](w, "later"); found || !w.running || w.held != "" {
		t.Errorf("later attachment: %t, running: %t, snapshot held by %q", found, w.running, w.held)
	}
}

func TestWhatCannotBePutBackIsToldBeforeTheVMIsTurnedOff(t *testing.T) {
	client := etcdtest.Start(t)
	for name, spoil := range map[string]func(w *world){
		"VirtualDisk root is attached to VirtualMachine other": func(w *world) {
			disk, _ := find[*diskv1.VirtualDisk](w, "root")
			mounted := true
			disk.Status.AttachedToVirtualMachines = []*diskv1.AttachedVirtualMachine{{Name: "other", Mounted: &mounted}}
		},
		"VirtualDisk root is not Ready": func(w *world) {
			disk, _ := find[*diskv1.VirtualDisk](w, "root")
			disk.Status.Phase = diskv1.DiskPhase_PVCLost
		},
		"web-data attaches data to VirtualMachine other": func(w *world) {
			attachment, _ := find[*vmv1.VirtualMachineBlockDeviceAttachment](w, "web-data")
			attachment.Spec.VirtualMachineName = "other"
		},
		"has the address 10.66.10.9": func(w *world) {
			address, _ := find[*networkv1.VirtualMachineIPAddress](w, "web-ip")
			address.Status.Address = "10.66.10.9"
		},
		"has the address 02:00:00:00:00:09": func(w *world) {
			address, _ := find[*networkv1.VirtualMachineMACAddress](w, "web-mac")
			address.Status.Address = "02:00:00:00:00:09"
		},
		"Secret cloud exists with another content": func(w *world) {
			w.secrets["cloud"] = &secretv1.Secret{Type: "other"}
		},
		"at most 8": func(w *world) {
			objects := web()
			vm, _ := objects[0].(*vmv1.VirtualMachine)
			vm.Spec.Cpu.Cores = 9
			kept := recipeOf(w.t, objects)
			there, err := w.engine.Recipes.Get(w.t.Context(), w.snapshot.GetMetadata().GetUid())
			if err != nil {
				w.t.Fatal(err)
			}
			kept.Version = there.Version
			w.keep(kept)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, client)
			spoil(w)
			o := w.run(jobNamed(inPlace))
			if !o.Failed() || !strings.Contains(o.Record.Failure.Message, name) {
				t.Errorf("the failure is %+v", o.Record.Failure)
			}
			if w.keeper != "" || w.content["root"] != "new" {
				t.Errorf("kept off by %q, disks have %v", w.keeper, w.content)
			}
		})
	}
}

func TestMissingImagesAreWaitedForRefusedOrLeftOut(t *testing.T) {
	client := etcdtest.Start(t)
	for missing, want := range map[rebuild.Missing]struct {
		made bool
		refs int
	}{rebuild.Keep: {true, 2}, rebuild.Refuse: {false, 0}, rebuild.Drop: {true, 1}} {
		w := newWorld(t, client)
		w.images = nil
		o := w.run(jobNamed(func(job *rebuild.Job) { asCopy(job); job.Images = missing }))
		vm, _ := find[*vmv1.VirtualMachine](w, "copy-web")
		if o.Record.Made != want.made || len(vm.GetSpec().GetBlockDeviceRefs()) != want.refs {
			t.Errorf("%d: the record is %+v, the VM has %v", missing, o.Record, vm.GetSpec().GetBlockDeviceRefs())
		}
	}
}

func TestATryTellsOnceAndDoesNothing(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	before, job := w.names(), jobNamed(inPlace)
	o, err := w.engine.Try(t.Context(), job)
	if err != nil || o.Record.Failure != nil || len(o.Resources()) != 7 {
		t.Fatalf("the try says %v, %v", o.Resources(), err)
	}
	for _, one := range o.Resources() {
		if one.GetStatus() != vmv1.OperationResourceStatus_Completed || !strings.HasPrefix(one.GetMessage(), "It would be ") {
			t.Errorf("an object is told as %v", one)
		}
	}
	delete(w.objects, "VirtualMachine web")
	again, err := w.engine.Try(t.Context(), job)
	if err != nil || len(again.Record.Items) != len(o.Record.Items) || again.Record.Items[0] != o.Record.Items[0] {
		t.Errorf("tried again it says %+v, %v", again.Record, err)
	}
	delete(w.objects, "VirtualMachine web")
	if left := strings.ReplaceAll(before, "VirtualMachine web, ", ""); w.names() != left || w.held != "" || w.keeper != "" {
		t.Errorf("there are %s, want %s", w.names(), left)
	}
}

// The process is killed in each call, before and after its effect: the next one
// goes on, and it ends as if nothing had been.
func TestAJobThatIsKilledAnywhereGoesOn(t *testing.T) {
	client := etcdtest.Start(t)
	for name, change := range map[string]func(*rebuild.Job){"in place": inPlace, "as a copy": asCopy} {
		whole := newWorld(t, client)
		whole.run(jobNamed(change))
		for _, effect := range []bool{false, true} {
			for killed := range whole.calls {
				t.Run(fmt.Sprintf("%s, call %d, effect %t", name, killed+1, effect), func(t *testing.T) {
					w := newWorld(t, client)
					w.killed, w.effect = killed+1, effect
					if o := w.run(jobNamed(change)); !o.Record.Made {
						t.Fatalf("it failed: %+v", o.Record.Failure)
					}
					if w.names() != whole.names() || fmt.Sprint(w.content) != fmt.Sprint(whole.content) || w.running != whole.running {
						t.Errorf("there are %s with %v, want %s with %v", w.names(), w.content, whole.names(), whole.content)
					}
				})
			}
		}
	}
}

// A job is deleted after each step: before it is done nothing is left of it, unless
// disks are being put back, which ends.
func TestADeletedJobLeavesNothingHalfMade(t *testing.T) {
	client := etcdtest.Start(t)
	for name, change := range map[string]func(*rebuild.Job){"in place": inPlace, "as a copy": asCopy} {
		whole, untouched := newWorld(t, client), newWorld(t, client)
		whole.run(jobNamed(change))
		for killed := range whole.calls {
			t.Run(fmt.Sprintf("%s, call %d", name, killed+1), func(t *testing.T) {
				w, job := newWorld(t, client), jobNamed(change)
				w.killed, w.effect = killed+1, true
				for range 3 {
					if _, err := w.engine.Step(t.Context(), job); err != nil {
						break
					}
				}
				w.remove(job)
				if got := fmt.Sprint(w.names(), w.content["root"]); got != fmt.Sprint(whole.names(), whole.content["root"]) &&
					got != fmt.Sprint(untouched.names(), untouched.content["root"]) {
					t.Errorf("there are %s with %v", w.names(), w.content)
				}
				if !w.running || w.keeper != "" || w.held != "" {
					t.Errorf("running: %t, kept off by %q, held by %q", w.running, w.keeper, w.held)
				}
			})
		}
	}
}

func (w *world) remove(job *rebuild.Job) {
	w.t.Helper()
	for range passes {
		gone, _, err := w.engine.Remove(w.t.Context(), job)
		if err != nil && !errors.Is(err, errKilled) {
			w.t.Fatal(err)
		}
		if gone {
			return
		}
	}
	w.t.Fatal("the job does not go")
}
