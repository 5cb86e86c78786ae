package native

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource/manifest"
)

const (
	// machineLabel names a Pod's VM.
	machineLabel = "orlop.dev/virtual-machine"
	guestName    = "guest"
	guestImage   = "qemu"
)

// Pods publishes a Pod for each VM that runs, as its custom resource says: with
// the VM's labels, address, node and requests, so that Services, quotas and
// NetworkPolicies mean it as they would on a cluster. No kubelet runs it: it is
// deleted without grace, and one that somebody deletes comes back while the VM
// runs.
type Pods struct {
	Kube client.Client
	// Live reads past the cache.
	Live client.Reader
	// Machine is the kind of the custom resources.
	Machine schema.GroupVersionKind
}

// Reconcile implements reconcile.Reconciler.
func (p Pods) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	wanted, err := p.wanted(ctx, request)
	if err != nil {
		return reconcile.Result{}, err
	}
	list := new(corev1.PodList)
	if err := p.Kube.List(ctx, list, client.InNamespace(request.Namespace), client.MatchingLabels{machineLabel: request.Name}); err != nil {
		return reconcile.Result{}, err
	}
	var present *corev1.Pod
	var others []*corev1.Pod
	var left time.Duration
	for i := range list.Items {
		pod := &list.Items[i]
		switch reserved := reservedFor(pod); {
		case wanted != nil && pod.Name == wanted.Name && pod.DeletionTimestamp == nil:
			present = pod
		case reserved > 0:
			left = max(left, reserved)
		default:
			others = append(others, pod)
		}
	}
	if wanted == nil || left > 0 { // the status is still that of an earlier instance
		return reconcile.Result{RequeueAfter: left}, p.remove(ctx, others)
	}
	if err := p.replace(ctx, others, present, wanted); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, p.remove(ctx, others)
}

// replace publishes a Pod. The VM that has moved is behind its Services all the
// time: the new Pod comes before the old ones go, unless quotas have room for one
// of them only. Where they have not even that, the old one stays.
func (p Pods) replace(ctx context.Context, old []*corev1.Pod, present, wanted *corev1.Pod) error {
	err := p.publish(ctx, present, wanted)
	if !apierrors.IsForbidden(err) || len(old) == 0 {
		return err
	}
	quotas := new(corev1.ResourceQuotaList)
	if err := p.Live.List(ctx, quotas, client.InNamespace(wanted.Namespace)); err != nil {
		return err
	}
	if !Exchangeable(quotas.Items, wanted) {
		return err
	}
	if err := p.remove(ctx, old); err != nil {
		return err
	}
	return p.publish(ctx, present, wanted)
}

func (p Pods) remove(ctx context.Context, pods []*corev1.Pod) error {
	for _, pod := range pods {
		err := p.Kube.Delete(ctx, pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pod.UID})
		if client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// wanted is the Pod that a VM should have, nil for none.
func (p Pods) wanted(ctx context.Context, request reconcile.Request) (*corev1.Pod, error) {
	cr := new(unstructured.Unstructured)
	cr.SetGroupVersionKind(p.Machine)
	if err := p.Kube.Get(ctx, request.NamespacedName, cr); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	machine := new(vmv1.VirtualMachine)
	content := map[string]any{}
	for _, part := range []string{"spec", "status"} {
		if value, found := cr.Object[part]; found {
			content[part] = value
		}
	}
	if err := manifest.Decode(manifest.DropUnknown(content, machine), machine); err != nil {
		return nil, fmt.Errorf("VM %s: %w", request, err)
	}
	return podOf(cr, machine)
}

func podOf(cr *unstructured.Unstructured, machine *vmv1.VirtualMachine) (*corev1.Pod, error) {
	status := machine.GetStatus()
	if len(status.GetVirtualMachinePods()) == 0 {
		return nil, nil //nolint:nilnil // A VM that doesn't run has none.
	}
	pod, err := NewPod(cr, Shape{
		Name: status.GetVirtualMachinePods()[0].GetName(), Node: status.GetNodeName(),
		RequestedCPU: status.GetResources().GetCpu().GetRequestedCores(), CPU: fmt.Sprint(status.GetResources().GetCpu().GetCores()),
		Memory: status.GetResources().GetMemory().GetSize(), Overhead: status.GetResources().GetMemory().GetRuntimeOverhead(),
	})
	if err != nil {
		return nil, err
	}
	pod.Status = podStatus(status)
	return pod, nil
}

// Shape is what a Pod takes of which node. Quantities are as Kubernetes writes
// them; Overhead is what running the guest takes beside its memory.
type Shape struct {
	Name, Node                          string
	RequestedCPU, CPU, Memory, Overhead string
}

// NewPod is the Pod of a VM, as its custom resource or that one's metadata names
// it, without a status.
func NewPod(cr *unstructured.Unstructured, shape Shape) (*corev1.Pod, error) {
	requests, err := listOf(shape.RequestedCPU, shape.Memory, shape.Overhead)
	if err != nil {
		return nil, fmt.Errorf("VM %s: requests: %w", cr.GetName(), err)
	}
	limits, err := listOf(shape.CPU, shape.Memory, shape.Overhead)
	if err != nil {
		return nil, fmt.Errorf("VM %s: limits: %w", cr.GetName(), err)
	}
	labels := map[string]string{managedLabel: "true", machineLabel: cr.GetName()}
	maps.Copy(labels, cr.GetLabels())
	controller, never := true, false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: shape.Name, Namespace: cr.GetNamespace(), Labels: labels,
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: cr.GetAPIVersion(), Kind: cr.GetKind(), Name: cr.GetName(), UID: cr.GetUID(), Controller: &controller,
			}},
		},
		Spec: corev1.PodSpec{
			NodeName: shape.Node, RestartPolicy: corev1.RestartPolicyNever,
			AutomountServiceAccountToken: &never, EnableServiceLinks: &never,
			Containers: []corev1.Container{{
				Name: guestName, Image: guestImage, Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits},
			}},
		},
	}, nil
}

func listOf(cpu, memory, overhead string) (corev1.ResourceList, error) {
	list := corev1.ResourceList{}
	for _, part := range []struct {
		name corev1.ResourceName
		text string
	}{{corev1.ResourceCPU, cpu}, {corev1.ResourceMemory, memory}, {corev1.ResourceMemory, overhead}} {
		quantity, err := resource.ParseQuantity(part.text)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", part.name, part.text, err)
		}
		sum := list[part.name]
		sum.Add(quantity)
		list[part.name] = sum
	}
	return list, nil
}

// podStatus is ready while the guest can be talked to: also while it moves.
func podStatus(machine *vmv1.VirtualMachineStatus) corev1.PodStatus {
	phase := machine.GetPhase()
	ready := machine.GetIpAddress() != "" &&
		(phase == vmv1.VirtualMachinePhase_Running || phase == vmv1.VirtualMachinePhase_Migrating)
	status := corev1.PodStatus{
		Phase: corev1.PodRunning,
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: guestName, Image: guestImage, Ready: ready,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}},
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		condition := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, Reason: "GuestNotRunning"}
		if ready {
			condition.Status, condition.Reason = corev1.ConditionTrue, ""
		}
		status.Conditions = append(status.Conditions, condition)
	}
	if address := machine.GetIpAddress(); address != "" {
		status.PodIP, status.PodIPs = address, []corev1.PodIP{{IP: address}}
	}
	return status
}

// publish makes the Pod, or brings labels and status of the present one up to
// date, which is no longer only reserved: nothing else of a Pod can be changed.
func (p Pods) publish(ctx context.Context, present, wanted *corev1.Pod) error {
	if present == nil {
		present = wanted.DeepCopy()
		if err := p.Kube.Create(ctx, present, fieldOwner); err != nil {
			return err // one of this name that the cache doesn't show yet: tried again
		}
	}
	if reserved := present.Annotations[reservedAnnotation] != ""; reserved || !maps.Equal(present.Labels, wanted.Labels) {
		before := present.DeepCopy()
		delete(present.Annotations, reservedAnnotation)
		present.Labels = wanted.Labels
		if err := p.Kube.Patch(ctx, present, client.MergeFrom(before), fieldOwner); err != nil {
			return err
		}
	}
	status := mergeStatus(present.Status, wanted.Status)
	if equality.Semantic.DeepEqual(status, present.Status) {
		return nil
	}
	before := present.DeepCopy()
	present.Status = status
	return p.Kube.Status().Patch(ctx, present, client.MergeFrom(before), fieldOwner)
}

// mergeStatus keeps the times of what did not change, and what others wrote.
func mergeStatus(present, wanted corev1.PodStatus) corev1.PodStatus {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	merged := present.DeepCopy()
	merged.Phase, merged.PodIP, merged.PodIPs = wanted.Phase, wanted.PodIP, wanted.PodIPs
	merged.ContainerStatuses = wanted.ContainerStatuses
	if merged.StartTime == nil {
		merged.StartTime = &now
	}
	merged.ContainerStatuses[0].State.Running.StartedAt = *merged.StartTime
	for _, condition := range wanted.Conditions {
		condition.LastTransitionTime = now
		at := slices.IndexFunc(merged.Conditions, func(c corev1.PodCondition) bool { return c.Type == condition.Type })
		switch {
		case at < 0:
			merged.Conditions = append(merged.Conditions, condition)
		case merged.Conditions[at].Status != condition.Status:
			merged.Conditions[at] = condition
		}
	}
	return *merged
}
