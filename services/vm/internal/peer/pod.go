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

const (
	// podWait bounds the making of a Pod.
	podWait = 10 * time.Second
	// roomPause is between two watches of room.
	roomPause = time.Second
)

// Pods implements machine.Pods.
type Pods struct {
	client  podv1.PodServiceClient
	allowed func(namespace string)
}

// NewPods has Pods made by way of conn, and tells which namespaces may allow more
// than they did.
func NewPods(conn grpc.ClientConnInterface, allowed func(namespace string)) *Pods {
	return &Pods{client: podv1.NewPodServiceClient(conn), allowed: allowed}
}

// Reserve implements machine.Pods.
func (p *Pods) Reserve(ctx context.Context, pod machine.Pod) error {
	return p.ask(ctx, pod, false)
}

// MayMove implements machine.Pods.
func (p *Pods) MayMove(ctx context.Context, pod machine.Pod) error {
	return p.ask(ctx, pod, true)
}

func (p *Pods) ask(ctx context.Context, pod machine.Pod, dryRun bool) error {
	ctx, cancel := context.WithTimeout(ctx, podWait)
	defer cancel()
	_, err := p.client.ReservePod(ctx, &podv1.ReservePodRequest{
		Namespace: pod.Namespace, VirtualMachine: pod.VirtualMachine, Name: pod.Name, Node: pod.Node,
		RequestedCpu: resource.NewMilliQuantity(pod.MilliCPU, resource.DecimalSI).String(),
		Cpu:          resource.NewQuantity(pod.Cores, resource.DecimalSI).String(),
		Memory:       pod.Memory, MemoryOverhead: resource.NewQuantity(pod.OverheadBytes, resource.BinarySI).String(),
		DryRun: dryRun,
	})
	return fault.FromStatus(err)
}

// Run tells of room until ctx ends. Each watch begins with all namespaces that
// have quotas or limits, so that none is missed in between.
func (p *Pods) Run(ctx context.Context) error {
	return repeat(ctx, roomPause, func() {
		stream, err := p.client.WatchRoom(ctx, &podv1.WatchRoomRequest{})
		for err == nil {
			var response *podv1.WatchRoomResponse
			if response, err = stream.Recv(); err == nil {
				p.allowed(response.GetNamespace())
			}
		}
	})
}
