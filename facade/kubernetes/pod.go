package kubernetes

import (
	"context"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"orlop.dev/facade/kubernetes/internal/native"
	podv1 "orlop.dev/gen/orlop/pod/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"
)

// reasonNotAllowed is that of an instance that a quota, or a limit, of its
// namespace does not allow.
const reasonNotAllowed = "PodNotAllowed"

// Pods is the port by which the vm service has an instance counted before it runs.
type Pods struct {
	podv1.UnimplementedPodServiceServer
	client clientset.Interface
	// machines finds the custom resources of VMs, of which their names and labels
	// are enough.
	machines metadata.Interface
}

// NewPods returns the port to the API server behind config, whose user must be
// allowed to read VMs, quotas and limits, and to make and delete Pods.
func NewPods(config *rest.Config) (*Pods, error) {
	client, err := clientset.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	machines, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &Pods{client: client, machines: machines}, nil
}

// Part is the port as a piece of a process.
func (p *Pods) Part() serve.Part {
	return serve.Part{
		Name: "pods",
		Register: func(registrar grpc.ServiceRegistrar) error {
			podv1.RegisterPodServiceServer(registrar, p)
			return nil
		},
		Ready: func(context.Context) error { return nil },
	}
}

// ReservePod implements PodServiceServer.
func (p *Pods) ReservePod(ctx context.Context, request *podv1.ReservePodRequest) (*podv1.ReservePodResponse, error) {
	machines := kind.Must(&vmv1.VirtualMachine{})
	gvk := gvkOf(machines)
	found, err := p.machines.Resource(gvk.GroupVersion().WithResource(machines.Plural)).Namespace(request.GetNamespace()).
		Get(ctx, request.GetVirtualMachine(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fault.New(fault.NotFound, "VirtualMachineNotFound", "Kubernetes knows no VirtualMachine %s", request.GetVirtualMachine())
	}
	if err != nil {
		return nil, withoutPods(err)
	}
	cr := new(unstructured.Unstructured)
	cr.SetGroupVersionKind(gvk)
	cr.SetName(found.Name)
	cr.SetNamespace(found.Namespace)
	cr.SetUID(found.UID)
	cr.SetLabels(found.Labels)
	pod, err := native.NewPod(cr, native.Shape{
		Name: request.GetName(), Node: request.GetNode(),
		RequestedCPU: request.GetRequestedCpu(), CPU: request.GetCpu(), Memory: request.GetMemory(), Overhead: request.GetMemoryOverhead(),
	})
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, fault.ReasonInvalid, "%v", err)
	}
	if request.GetDryRun() {
		return new(podv1.ReservePodResponse), p.tryReplacing(ctx, request, pod)
	}
	native.Reserve(pod)
	if err := p.removeOthers(ctx, request); err != nil {
		return nil, withoutPods(err)
	}
	return new(podv1.ReservePodResponse), p.create(ctx, pod, metav1.CreateOptions{})
}

// create makes a Pod that may be there.
func (p *Pods) create(ctx context.Context, pod *corev1.Pod, how metav1.CreateOptions) error {
	_, err := p.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, how)
	switch {
	case err == nil, apierrors.IsAlreadyExists(err):
		return nil
	case apierrors.IsForbidden(err):
		return fault.Wrap(err, fault.Exhausted, reasonNotAllowed, "%v", err)
	}
	return withoutPods(err)
}

// tryReplacing reports whether a Pod may be made, or might once the VM's present
// one is gone.
func (p *Pods) tryReplacing(ctx context.Context, request *podv1.ReservePodRequest, pod *corev1.Pod) error {
	refusal := p.create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if !fault.Is(refusal, fault.Exhausted) {
		return refusal
	}
	present, err := p.client.CoreV1().Pods(pod.Namespace).List(ctx, selecting(request))
	if err != nil {
		return withoutPods(err)
	}
	quotas, err := p.client.CoreV1().ResourceQuotas(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return withoutPods(err)
	}
	if len(present.Items) > 0 && native.Exchangeable(quotas.Items, pod) {
		return nil
	}
	return refusal
}

func selecting(request *podv1.ReservePodRequest) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: native.PodsOf(request.GetVirtualMachine()).String()}
}

// removeOthers deletes Pods of earlier instances, which run no more.
func (p *Pods) removeOthers(ctx context.Context, request *podv1.ReservePodRequest) error {
	pods := p.client.CoreV1().Pods(request.GetNamespace())
	list, err := pods.List(ctx, selecting(request))
	if err != nil {
		return err
	}
	for _, pod := range list.Items {
		if pod.Name == request.GetName() {
			continue
		}
		now := int64(0)
		err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func withoutPods(err error) error {
	return fault.Wrap(err, fault.Transient, "KubernetesUnavailable", "the Kubernetes API can't make a Pod now")
}
