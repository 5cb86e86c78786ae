package native

import (
	"context"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

// NodeStates tells the vm service what an administrator does to a Node: labels,
// taints, cordon.
type NodeStates struct {
	Kube client.Client
	VMs  vmv1.NodeServiceClient
}

// Reconcile implements reconcile.Reconciler. Nodes that the service doesn't know
// are none of its business.
func (n NodeStates) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	node := new(corev1.Node)
	if err := n.Kube.Get(ctx, request.NamespacedName, node); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	list, err := n.VMs.ListNodes(ctx, &vmv1.ListNodesRequest{})
	if err != nil {
		return reconcile.Result{}, err
	}
	for _, item := range list.GetItems() {
		if item.GetName() != node.Name {
			continue
		}
		wanted := stateOf(node, item)
		if proto.Equal(wanted, item.GetState()) {
			return reconcile.Result{}, nil
		}
		_, err := n.VMs.SetNodeState(ctx, &vmv1.SetNodeStateRequest{Name: node.Name, State: wanted})
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

// stateOf is what of a Node is the administrator's.
func stateOf(node *corev1.Node, item *vmv1.Node) *vmv1.NodeState {
	state := &vmv1.NodeState{Unschedulable: node.Spec.Unschedulable}
	own := ownLabels(item)
	for key, value := range node.Labels {
		if _, isOwn := own[key]; !isOwn && key != managedLabel {
			if state.Labels == nil {
				state.Labels = map[string]string{}
			}
			state.Labels[key] = value
		}
	}
	for _, taint := range node.Spec.Taints {
		state.Taints = append(state.Taints, &vmv1.Taint{Key: taint.Key, Value: taint.Value, Effect: string(taint.Effect)})
	}
	return state
}

// ownLabels are those that a node has by itself.
func ownLabels(item *vmv1.Node) map[string]string {
	own := map[string]string{}
	for key, value := range item.GetLabels() {
		if _, said := item.GetState().GetLabels()[key]; !said {
			own[key] = value
		}
	}
	return own
}

// Surroundings tells the vm service what namespaceSelector and priorityClassName
// mean: the labels of namespaces, and the values of PriorityClasses.
type Surroundings struct {
	Kube client.Client
	VMs  vmv1.NodeServiceClient
}

// Reconcile implements reconcile.Reconciler. Whatever it is asked about, it tells
// all.
func (s Surroundings) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	namespaces, classes := new(corev1.NamespaceList), new(schedulingv1.PriorityClassList)
	if err := s.Kube.List(ctx, namespaces); err != nil {
		return reconcile.Result{}, err
	}
	if err := s.Kube.List(ctx, classes); err != nil {
		return reconcile.Result{}, err
	}
	state := &vmv1.SetClusterStateRequest{Namespaces: map[string]*vmv1.NamespaceState{}, Priorities: map[string]int32{}}
	for _, namespace := range namespaces.Items {
		state.Namespaces[namespace.Name] = &vmv1.NamespaceState{Labels: namespace.Labels}
	}
	for _, class := range classes.Items {
		state.Priorities[class.Name] = class.Value
		if class.GlobalDefault {
			state.DefaultPriority = class.Value
		}
	}
	_, err := s.VMs.SetClusterState(ctx, state)
	return reconcile.Result{}, err
}
