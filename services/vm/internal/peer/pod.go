package peer

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/api/resource"

	podv1 "orlop.dev/gen/orlop/pod/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/machine"
)

// podWait bounds the making of a Pod.
const podWait = 10 * time.Second

// Pods implements machine.Pods.
type Pods struct{ client podv1.PodServiceClient }

// NewPods has Pods made by way of conn.
func NewPods(conn grpc.ClientConnInterface) *Pods {
	return &Pods{client: podv1.NewPodServiceClient(conn)}
}

// Reserve implements machine.Pods.
func (p *Pods) Reserve(ctx context.Context, pod machine.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, podWait)
	defer cancel()
	_, err := p.client.ReservePod(ctx, &podv1.ReservePodRequest{
		Namespace: pod.Namespace, VirtualMachine: pod.VirtualMachine, Name: pod.Name, Node: pod.Node,
		RequestedCpu: resource.NewMilliQuantity(pod.MilliCPU, resource.DecimalSI).String(),
		Cpu:          resource.NewQuantity(pod.Cores, resource.DecimalSI).String(),
		Memory:       pod.Memory,
	})
	return fault.FromStatus(err)
}
