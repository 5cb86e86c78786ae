package native

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

// Nodes publishes the vm service's nodes.
type Nodes struct {
	Kube client.Client
	VMs  vmv1.NodeServiceClient
	// External is the address of all nodes to this machine's users; the zero Addr
	// for none.
	External netip.Addr
}

// Publish implements Publisher. Cordons and labels that a user put on a node
// are not the publisher's fields, and stay.
func (p Nodes) Publish(ctx context.Context) error {
	list, err := p.VMs.ListNodes(ctx, &vmv1.ListNodesRequest{})
	if err != nil {
		return err
	}
	for _, item := range list.GetItems() {
		node, err := nodeOf(item)
		if err != nil {
			return err
		}
		if p.External.IsValid() {
			node.Status.Addresses = append(node.Status.Addresses,
				corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: p.External.String()})
		}
		if err := p.publish(ctx, node); err != nil {
			return fmt.Errorf("node %s: %w", item.GetName(), err)
		}
	}
	return nil
}

func (p Nodes) publish(ctx context.Context, node *corev1.Node) error {
	status := node.DeepCopy()
	if err := apply(ctx, p.Kube, node); err != nil {
		return err
	}
	//nolint:staticcheck // As in apply.
	return p.Kube.Status().Patch(ctx, status, client.Apply, fieldOwner, client.ForceOwnership)
}

func nodeOf(item *vmv1.Node) (*corev1.Node, error) {
	allocatable := corev1.ResourceList{}
	for name, text := range item.GetAllocatable() {
		quantity, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("node %s, resource %s: %w", item.GetName(), name, err)
		}
		allocatable[corev1.ResourceName(name)] = quantity
	}
	node := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: item.GetName(), Labels: nodeLabels(item)},
		Status: corev1.NodeStatus{
			Capacity: allocatable, Allocatable: allocatable,
			Conditions: []corev1.NodeCondition{ready()},
			NodeInfo: corev1.NodeSystemInfo{
				OperatingSystem: "linux", Architecture: "amd64",
				ContainerRuntimeVersion: fmt.Sprintf("qemu://%s (%s)", item.GetQemuVersion(), item.GetAccelerator()),
			},
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: item.GetName()}},
		},
	}
	if item.GetAddress() != "" {
		node.Status.Addresses = append(node.Status.Addresses,
			corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: item.GetAddress()})
	}
	return node, nil
}

func nodeLabels(item *vmv1.Node) map[string]string {
	labels := map[string]string{managedLabel: "true"}
	maps.Copy(labels, ownLabels(item))
	return labels
}

// ready is what a node is as long as the vm service answers.
func ready() corev1.NodeCondition {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	return corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "GuestsCanRun",
		Message: "The vm service runs guests here.", LastHeartbeatTime: now, LastTransitionTime: now,
	}
}
