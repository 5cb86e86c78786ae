package native

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
)

// Evictions answers the eviction of a VM's Pod by moving the VM: the eviction is
// refused for now, as by a PodDisruptionBudget, so that whoever drains a node
// waits until the Pod has gone, which it does when the VM runs elsewhere.
type Evictions struct {
	Kube client.Reader
	VMs  vmv1.NodeServiceClient
}

// Handle implements admission.Handler.
func (e Evictions) Handle(ctx context.Context, request admission.Request) admission.Response {
	pod := new(corev1.Pod)
	err := e.Kube.Get(ctx, client.ObjectKey{Namespace: request.Namespace, Name: request.Name}, pod)
	switch {
	case apierrors.IsNotFound(err):
		return admission.Allowed("") // the API says better that it is gone
	case err != nil:
		return admission.Errored(http.StatusInternalServerError, err)
	}
	name := pod.Labels[machineLabel]
	if name == "" || pod.Labels[managedLabel] == "" || onlyTried(request) {
		return admission.Allowed("")
	}
	response, err := e.VMs.EvacuateNode(ctx, &vmv1.EvacuateNodeRequest{
		Name: pod.Spec.NodeName, Only: &vmv1.GuestRef{Namespace: pod.Namespace, Name: name},
	})
	message := fmt.Sprintf("VM %s/%s has left, and its Pod goes.", pod.Namespace, name)
	switch {
	case err != nil:
		message = "The vm service can't be asked now: " + fault.FromStatus(err).Error()
	case len(response.GetGuests()) > 0:
		message = fmt.Sprintf("VM %s/%s: %s", pod.Namespace, name, response.GetGuests()[0].GetMessage())
	}
	return later(message)
}

// onlyTried reports whether the eviction is a dry run: by the request's own
// option, or by that of the deletion that it stands for, as kubectl asks.
func onlyTried(request admission.Request) bool {
	if request.DryRun != nil && *request.DryRun {
		return true
	}
	eviction := new(policyv1.Eviction)
	if err := json.Unmarshal(request.Object.Raw, eviction); err != nil || eviction.DeleteOptions == nil {
		return false
	}
	return slices.Contains(eviction.DeleteOptions.DryRun, metav1.DryRunAll)
}

// later refuses in the way in which the API itself does until a disruption is
// allowed. It names no time to wait: clients would repeat the request silently
// instead of showing the message.
func later(message string) admission.Response {
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Result: &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusTooManyRequests, Reason: metav1.StatusReasonTooManyRequests,
		Message: message,
	}}}
}
