package machine_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/migration"
	"orlop.dev/services/vm/internal/migration/migrationtest"
	"orlop.dev/services/vm/internal/power"

	networkv1 "orlop.dev/gen/orlop/network/v1"
)

// mortalMover is an engine of migrations whose caller can die.
type mortalMover struct {
	migration.Engine
	wire *wire
}

func (m *mortalMover) Prepare(ctx context.Context, uid, attempt string, port *networkv1.Port, copies []migration.Copy) error {
	return m.wire.around(ctx, "Migrations.Prepare", func() error { return m.Engine.Prepare(ctx, uid, attempt, port, copies) })
}

func (m *mortalMover) Send(ctx context.Context, uid, attempt string, limits migration.Limits) error {
	return m.wire.around(ctx, "Migrations.Send", func() error { return m.Engine.Send(ctx, uid, attempt, limits) })
}

func (m *mortalMover) Abort(ctx context.Context, uid, attempt string) error {
	return m.wire.around(ctx, "Migrations.Abort", func() error { return m.Engine.Abort(ctx, uid, attempt) })
}

// wantsToMove has a VM that runs on node-1 or node-2, and is told to leave.
func wantsToMove(w *world) (engine *migrationtest.Engine, source, target string) {
	w.t.Helper()
	engine = &migrationtest.Engine{Runs: func(uid string) bool {
		sight, err := w.engine.Look(w.t.Context(), uid)
		return err == nil && sight.State.Alive()
	}}
	w.r.Migrations = &mortalMover{engine, w.wire}
	w.r.Migration = migration.Settings{}.OrDefaults()
	w.run()
	source = w.vm.GetStatus().GetNodeName()
	target = map[string]string{"node-1": "node-2", "node-2": "node-1"}[source]
	w.ask(func(r *power.Record) {
		r.Migration = &power.Migration{Operation: "evict", Source: r.Node, Began: w.now}
	})
	return engine, source, target
}

func (w *world) wantNode(node string) {
	w.t.Helper()
	holders := w.addresses.all["web-auto"].GetMetadata().GetHolders()
	if w.vm.GetStatus().GetNodeName() != node || len(holders) != 1 || holders[0].GetNode() != node || holders[0].GetTargetNode() != "" {
		w.t.Fatalf("the VM is on %s, its address used by %v, want %s", w.vm.GetStatus().GetNodeName(), holders, node)
	}
}

func TestAVMMoves(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	_, source, target := wantsToMove(w)
	w.run()
	w.wantNode(target)
	w.wantCondition("Migratable", "VirtualMachineMigratable", "")
	state := w.vm.GetStatus().GetMigrationState()
	if state.GetResult() != vmv1.MigrationResult_Succeeded || state.GetSource().GetNode() != source || state.GetTarget().GetNode() != target {
		t.Errorf("%v", state)
	}
	if w.engine.Starts() != 1 {
		t.Errorf("the guest was started %d times", w.engine.Starts())
	}
}

func TestAProcessThatDiesAnywhereInAMigrationGoesOn(t *testing.T) {
	client := etcdtest.Start(t)
	for cutAt := 1; ; cutAt++ {
		w := newWorld(t, client)
		_, _, target := wantsToMove(w)
		ctx, cut := context.WithCancel(t.Context())
		w.wire.steps, w.wire.cutAt, w.wire.cut = 0, cutAt, cut
		for range 20 {
			_, _ = w.pass(ctx)
		}
		died := ctx.Err() != nil
		cut()
		w.wire.cutAt = 0
		for range 20 { // the engine's own progress is nothing that settle waits for
			_, _ = w.pass(t.Context())
		}
		w.run()
		w.wantNode(target)
		if !died {
			return
		}
	}
}

func TestAMigrationThatDoesNotComeToItsEndIsAborted(t *testing.T) {
	client := etcdtest.Start(t)
	for _, stage := range []migration.Stage{migration.Syncing, migration.Suspended} {
		w := newWorld(t, client)
		engine, source, _ := wantsToMove(w)
		engine.Stuck = true
		w.settle()
		engine.Set(w.uid(), "evict", stage)
		w.settle()
		w.wantPhase(vmv1.VirtualMachinePhase_Migrating)
		w.now = w.now.Add(w.r.Migration.ProgressTimeout + time.Second)
		w.run()
		w.wantNode(source)
		w.wantCondition("Migrating", "LastMigrationFinishedWithError", "")
		record, err := w.power.Get(t.Context(), w.uid())
		if err != nil || record.Migration.Failure.Reason != migration.ReasonNotConverging {
			t.Errorf("%s: %+v, %v", stage, record.Migration, err)
		}
	}
}

func TestAVMThatIsStoppedInAMigrationAbortsIt(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	engine, _, _ := wantsToMove(w)
	engine.Stuck = true
	w.settle()
	w.ask(stopped)
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Stopped)
	record, err := w.power.Get(t.Context(), w.uid())
	if err != nil || record.Migration.Active() || record.Migration.Failure.Reason != migration.ReasonAborted {
		t.Errorf("%+v, %v", record.Migration, err)
	}
}

func TestAMigrationWaitsForANode(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	_, source, _ := wantsToMove(w)
	w.ask(func(r *power.Record) { r.Migration.NodeSelector = map[string]string{"kubernetes.io/hostname": source} })
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Running)
	w.wantCondition("Migrating", "VirtualMachineNotMigrating", "")
	w.now = w.now.Add(w.r.Migration.PreparationTimeout + time.Second)
	w.run()
	w.wantCondition("Migrating", "LastMigrationFinishedWithError", "")
	w.wantNode(source)
}

func TestAVMThatHasToLeaveSaysSoUntilItHasLeft(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	engine, source, target := wantsToMove(w)
	engine.Stuck = true
	for i := range w.nodes {
		if w.nodes[i].Name == source {
			w.nodes[i].State.Taints = []corev1.Taint{{Key: "repair", Effect: corev1.TaintEffectNoExecute}}
		}
	}
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Migrating)
	w.wantCondition("NeedsEvict", "NeedsEvict", "")
	engine.Set(w.uid(), "evict", migration.Moved)
	w.run()
	w.wantNode(target)
	if c := condition.Find(w.vm.GetStatus().GetConditions(), "NeedsEvict"); c != nil {
		t.Errorf("on %s it says %v", target, c)
	}
}

func TestAVMWithADiskOfItsNodeStays(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.devices.nodes["VirtualDisk root"] = "node-2"
	_, source, _ := wantsToMove(w)
	w.run()
	w.wantNode(source)
	w.wantCondition("Migratable", "VirtualMachineNotMigratable", "")
	w.wantCondition("Migrating", "LastMigrationFinishedWithError", "VirtualDisk root can be used on node-2 only.")
}

func TestAVMTakesDisksOfItsNodeAlong(t *testing.T) {
	client := etcdtest.Start(t)
	const disk = "VirtualDisk root"
	for cutAt := 1; ; cutAt++ {
		w := newWorld(t, client)
		w.devices.nodes[disk] = "node-2"
		engine, source, target := wantsToMove(w)
		w.r.Migration.CopyDisks = true
		ctx, cut := context.WithCancel(t.Context())
		w.wire.steps, w.wire.cutAt, w.wire.cut = 0, cutAt, cut
		for range 20 {
			if _, _ = w.pass(ctx); ctx.Err() != nil {
				break
			}
		}
		died := ctx.Err() != nil
		cut()
		w.wire.cutAt = 0
		for range 20 {
			_, _ = w.pass(t.Context())
		}
		w.run()
		w.wantNode(target)
		w.wantCondition("Migratable", "VirtualMachineDisksShouldBeMigrating", "Copied along: VirtualDisk root.")
		if len(engine.Copies) != 1 || engine.Copies[0].Path == "" || w.devices.nodes[disk] != target || len(w.devices.copies) > 0 {
			t.Fatalf("step %d: copied %v from %s, the disk is on %s, %v", cutAt, engine.Copies, source, w.devices.nodes[disk], w.devices.copies)
		}
		if !died {
			return
		}
	}
}

func TestADiskOfItsNodeStaysWhereTheMigrationFails(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.devices.nodes["VirtualDisk root"] = "node-2"
	engine, source, _ := wantsToMove(w)
	w.r.Migration.CopyDisks, engine.Stuck = true, true
	for range 5 {
		_, _ = w.pass(t.Context())
	}
	w.now = w.now.Add(w.r.Migration.ProgressTimeout + time.Second)
	w.run()
	w.wantNode(source)
	if w.devices.nodes["VirtualDisk root"] != source || len(w.devices.copies) > 0 {
		t.Errorf("the disk is on %s, %v", w.devices.nodes["VirtualDisk root"], w.devices.copies)
	}
}
