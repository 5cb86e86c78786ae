package disksnapshot_test

import (
	"context"
	"testing"
	"time"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/capture"
	"orlop.dev/services/snapshot/internal/disksnapshot"
)

// world is one disk, the VM that runs with it, and what a Capturer says.
type world struct {
	disk *diskv1.VirtualDisk
	vm   *vmv1.VirtualMachine

	begun, lost bool
	taken       *capture.Taken
	taking      error
}

func (w *world) Disk(resource.Key) (*diskv1.VirtualDisk, bool)             { return w.disk, w.disk != nil }
func (w *world) Machine(resource.Key) (*vmv1.VirtualMachine, bool)         { return w.vm, w.vm != nil }
func (w *world) Admit(string, string) error                                { return nil }
func (w *world) Abandon(context.Context, string, ...string) error          { return nil }
func (w *world) Lost(context.Context, string) (bool, error)                { return w.lost, nil }
func (w *world) isBegun(context.Context, string) (bool, error)             { return w.begun, nil }
func (w *world) Begin(context.Context, string, []capture.Disk, bool) error { return nil }

func (w *world) Taken(context.Context, string) (*capture.Taken, error) { return w.taken, nil }

func (w *world) Take(context.Context, string, vmv1.GuestRest_Value) error { return w.taking }

func TestAStatusSaysHowFarASnapshotIs(t *testing.T) {
	agent := func(status metav1.ConditionStatus_Value) *vmv1.VirtualMachine {
		return &vmv1.VirtualMachine{
			Metadata: &metav1.ObjectMeta{Name: "web"},
			Status:   &vmv1.VirtualMachineStatus{Conditions: []*metav1.Condition{{Type: "AgentReady", Status: status}}},
		}
	}
	ready := &diskv1.VirtualDisk{
		Metadata: &metav1.ObjectMeta{Name: "root", Holders: []*metav1.Holder{{Kind: "VirtualMachine", Name: "web", Active: true}}},
		Status:   &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready},
	}
	pending := &diskv1.VirtualDisk{Metadata: ready.GetMetadata(), Status: &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Pending}}
	on, off := agent(metav1.ConditionStatus_True), agent(metav1.ConditionStatus_False)
	for name, test := range map[string]struct {
		world  world
		phase  snapshotv1.SnapshotPhase_Value
		reason string
	}{
		"no disk":                 {world{}, snapshotv1.SnapshotPhase_Pending, "WaitingForTheVirtualDisk"},
		"a disk in making":        {world{disk: pending, vm: on}, snapshotv1.SnapshotPhase_Pending, "WaitingForTheVirtualDisk"},
		"no agent":                {world{disk: ready, vm: off}, snapshotv1.SnapshotPhase_Pending, "PotentiallyInconsistent"},
		"just begun":              {world{disk: ready, vm: on}, snapshotv1.SnapshotPhase_InProgress, "Snapshotting"},
		"being taken":             {world{begun: true, taking: fault.New(fault.Transient, "Down", "down")}, snapshotv1.SnapshotPhase_InProgress, "Snapshotting"},
		"its disk went":           {world{begun: true, taking: fault.New(fault.NotFound, "Gone", "gone")}, snapshotv1.SnapshotPhase_Failed, "VirtualDiskSnapshotFailed"},
		"taken":                   {world{taken: &capture.Taken{Consistent: true}}, snapshotv1.SnapshotPhase_Ready, "VirtualDiskSnapshotReady"},
		"taken while it was used": {world{taken: &capture.Taken{}}, snapshotv1.SnapshotPhase_Failed, "VirtualDiskSnapshotFailed"},
		"lost":                    {world{taken: &capture.Taken{Consistent: true}, lost: true}, snapshotv1.SnapshotPhase_Failed, "Lost"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &test.world
			r := &disksnapshot.Reconciler{Objects: w, Capturer: w, Classes: w, Begun: w.isBegun, Now: time.Now}
			required := true
			result, _ := r.Reconcile(t.Context(), &snapshotv1.VirtualDiskSnapshot{
				Metadata: &metav1.ObjectMeta{Namespace: "default", Name: "s", Uid: "u"},
				Spec:     &snapshotv1.VirtualDiskSnapshotSpec{VirtualDiskName: "root", RequiredConsistency: &required},
			})
			status, _ := result.Status.(*snapshotv1.VirtualDiskSnapshotStatus)
			if got := condition.Find(status.GetConditions(), "VirtualDiskSnapshotReady"); status.GetPhase() != test.phase || got.GetReason() != test.reason {
				t.Errorf("the status is %v", status)
			}
		})
	}
}
