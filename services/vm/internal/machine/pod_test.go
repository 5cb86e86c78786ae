package machine_test

import (
	"context"
	"testing"
	"time"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/migration"
)

// counted is what Kubernetes says to each Pod.
type counted struct {
	refusal error
	last    machine.Pod
}

func (c *counted) Reserve(_ context.Context, pod machine.Pod) error {
	c.last = pod
	return c.refusal
}

func (c *counted) MayMove(_ context.Context, pod machine.Pod) error {
	c.last = pod
	return c.refusal
}

const words = "exceeded quota: small, limited: requests.memory=512Mi"

func notAllowed() *counted {
	return &counted{refusal: fault.New(fault.Exhausted, "PodNotAllowed", words)}
}

func TestAMachineThatAQuotaDoesNotAllowWaitsAndSaysSoInItsWords(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	quota := notAllowed()
	w.r.Pods = quota
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Pending)
	w.wantCondition("Running", "PodNotStarted", words)
	w.wantCondition("PodStarted", "PodNotStarted", words)
	w.wantClaims(false, "VirtualDisk root")
	if w.engine.Starts() != 0 || w.after == 0 {
		t.Errorf("%d starts; looks again in %s", w.engine.Starts(), w.after)
	}
	quota.refusal = nil
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Pending) // nobody told of room

	if allowed := w.r.Allowed("elsewhere"); len(allowed) != 0 {
		t.Errorf("in another namespace %v may be tried", allowed)
	}
	if allowed := w.r.Allowed("default"); len(allowed) != 1 || allowed[0] != resource.KeyOf(w.vm) {
		t.Errorf("%v may be tried", allowed)
	}
	w.run()
	if pods := w.vm.GetStatus().GetVirtualMachinePods(); len(pods) != 1 || pods[0].GetName() != quota.last.Name ||
		quota.last.MilliCPU != 1000 || quota.last.Cores != 1 || quota.last.Memory != "1Gi" || quota.last.OverheadBytes == 0 ||
		quota.last.Node != w.vm.GetStatus().GetNodeName() {
		t.Errorf("the Pods are %v, reserved was %+v", pods, quota.last)
	}
}

func TestAMachineThatIsRefusedAPodIsTriedAgainWithinAMinute(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	quota := notAllowed()
	w.r.Pods = quota
	w.settle()
	quota.refusal = nil
	w.now = w.now.Add(time.Minute)
	w.run()
}

func TestAMigrationWaitsForAQuotaThatAllowsNoPodElsewhere(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	_, source, target := wantsToMove(w)
	quota := notAllowed()
	w.r.Pods = quota
	w.settle()
	w.wantNode(source)
	w.wantPhase(vmv1.VirtualMachinePhase_Running)
	w.wantCondition("Migrating", "VirtualMachineNotMigrating", "The VM waits to be moved: "+words)
	reason, message, _ := migration.Describe(w.record().Migration, migration.Sight{})
	if reason != migration.ReasonQuota || message != words || w.after == 0 {
		t.Errorf("%s: %s; looks again in %s", reason, message, w.after)
	}
	w.now = w.now.Add(time.Hour) // which is no reason to give up
	w.settle()
	quota.refusal = nil
	w.run()
	w.wantNode(target)
}

func TestAMachineStartsWhereNobodyCanBeAskedForItsPod(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.r.Pods = &counted{refusal: fault.New(fault.Transient, "KubernetesUnavailable", "not now")}
	w.run()
}
