package kubernetes

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"orlop.dev/facade/kubernetes/internal/native"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource/kind"
)

// publish adds what publishes objects of Kubernetes' own kinds, and what tells the
// services of what an administrator does to them.
func (o *Operator) publish(m manager.Manager) ([]native.Publisher, error) {
	disks, err := o.opts.Connect(kind.Must(&diskv1.VirtualDisk{}))
	if err != nil {
		return nil, err
	}
	machines, err := o.opts.Connect(kind.Must(&vmv1.VirtualMachine{}))
	if err != nil {
		return nil, err
	}
	snapshots, err := o.opts.Connect(kind.Must(&snapshotv1.VirtualDiskSnapshot{}))
	if err != nil {
		return nil, err
	}
	nodes, kube := vmv1.NewNodeServiceClient(machines), m.GetClient()
	if err := errors.Join(addPods(m), addNodes(m, nodes)); err != nil {
		return nil, err
	}
	o.answer(m, o.evictionPath(), native.Evictions{Kube: kube, VMs: nodes})
	return []native.Publisher{
		native.StorageClasses{Kube: kube, Disks: diskv1.NewStorageClassServiceClient(disks)},
		native.VolumeSnapshotClasses{Kube: kube, Snapshots: snapshotv1.NewVolumeSnapshotClassServiceClient(snapshots)},
		native.Nodes{Kube: kube, VMs: nodes, External: o.opts.NodeExternalIP},
	}, nil
}

// addPods publishes the Pods of VMs as the VMs change.
func addPods(m manager.Manager) error {
	gvk := gvkOf(kind.Must(&vmv1.VirtualMachine{}))
	cr := new(unstructured.Unstructured)
	cr.SetGroupVersionKind(gvk)
	return ctrl.NewControllerManagedBy(m).
		Named("pods").
		For(cr).
		Owns(&corev1.Pod{}).
		WithOptions(controllerOptions()).
		Complete(native.Pods{Kube: m.GetClient(), Live: m.GetAPIReader(), Machine: gvk})
}

// addNodes tells the vm service of nodes, and of what else placement goes by, as
// they change.
func addNodes(m manager.Manager, nodes vmv1.NodeServiceClient) error {
	all := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{}} // one question for everything
	})
	return errors.Join(
		ctrl.NewControllerManagedBy(m).Named("nodes").For(&corev1.Node{}).WithOptions(controllerOptions()).
			Complete(native.NodeStates{Kube: m.GetClient(), VMs: nodes}),
		ctrl.NewControllerManagedBy(m).Named("surroundings").
			Watches(&corev1.Namespace{}, all).Watches(&schedulingv1.PriorityClass{}, all).WithOptions(controllerOptions()).
			Complete(native.Surroundings{Kube: m.GetClient(), VMs: nodes}),
	)
}
