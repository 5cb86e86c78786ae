package machine_test

import (
	"context"
	"testing"
	"time"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/machine"
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

func TestAMachineThatAQuotaDoesNotAllowWaitsAndSaysSoInItsWords(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	quota := &counted{refusal: fault.New(fault.Exhausted, "QuotaExceeded", "exceeded quota: small, limited: requests.memory=512Mi")}
	w.r.Pods = quota
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Pending)
	w.wantCondition("Running", "QuotaExceeded", "exceeded quota: small, limited: requests.memory=512Mi")
	w.wantClaims(false, "VirtualDisk root")
	if w.engine.Starts() != 0 || w.after == 0 {
		t.Errorf("%d starts; looks again in %s", w.engine.Starts(), w.after)
	}
	quota.refusal = nil
	w.now = w.now.Add(time.Minute)
	w.run()
	if pods := w.vm.GetStatus().GetVirtualMachinePods(); len(pods) != 1 || pods[0].GetName() != quota.last.Name ||
		quota.last.MilliCPU != 1000 || quota.last.Cores != 1 || quota.last.Memory != "1Gi" || quota.last.Node != w.vm.GetStatus().GetNodeName() {
		t.Errorf("the Pods are %v, reserved was %+v", pods, quota.last)
	}
}

func TestAMachineStartsWhereNobodyCanBeAskedForItsPod(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.r.Pods = &counted{refusal: fault.New(fault.Transient, "KubernetesUnavailable", "not now")}
	w.run()
}
