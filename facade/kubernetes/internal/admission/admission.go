// Package admission answers the API server's question whether a custom
// resource may be stored: it asks the service that would have to obey it, with
// validate_only and in the user's name. It names no kind and has no rule of its
// own.
package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// asked is what a service judges of a change.
var asked = []string{"spec", "metadata.annotations"}

// Kind asks one kind's service.
type Kind struct {
	// Defaulted are the paths in the spec of what the service fills in.
	Defaulted []string
	// Convert reads the service's form of a custom resource.
	Convert func(*unstructured.Unstructured) (resource.Object, error)
	Client  *resource.Client[resource.Object]
}

// Handler judges custom resources of the kinds that it was given.
type Handler struct {
	Kinds map[schema.GroupVersionKind]Kind
}

// Handle implements admission.Handler.
func (h Handler) Handle(ctx context.Context, request admission.Request) admission.Response {
	gvk := schema.GroupVersionKind(request.Kind)
	kind, known := h.Kinds[gvk]
	if !known {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("no service has the kind %s", gvk))
	}
	cr := new(unstructured.Unstructured)
	if err := json.Unmarshal(request.Object.Raw, &cr.Object); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	if _, err := kind.ask(onBehalfOf(ctx, request), cr, request); err != nil {
		return deny(fault.From(err), cr)
	}
	return admission.Allowed("")
}

func onBehalfOf(ctx context.Context, request admission.Request) context.Context {
	return auth.OnBehalfOf(ctx, auth.User{
		Name: request.UserInfo.Username, UID: request.UserInfo.UID, Groups: request.UserInfo.Groups,
	})
}

// ask returns the object as the service would store it, or its refusal.
func (k Kind) ask(ctx context.Context, cr *unstructured.Unstructured, request admission.Request) (resource.Object, error) {
	object, err := k.Convert(cr)
	if err != nil {
		return nil, err
	}
	meta := object.GetMetadata()
	// Kubernetes' labels and owners are its own to judge.
	meta.OwnerReferences = nil
	meta.Namespace = request.Namespace
	if meta.Name == "" {
		meta.GenerateName = cr.GetGenerateName()
	}
	only := resource.WriteOptions{ValidateOnly: true}
	if request.Operation == admissionv1.Create {
		stored, err := k.Client.Create(ctx, object, only)
		// What is there already is the facade's to compare, not the user's to mend.
		if f := fault.From(err); f != nil && f.Class == fault.Exists {
			return k.Client.Update(ctx, object, resource.UpdateOptions{WriteOptions: only, Mask: asked})
		}
		return stored, err
	}
	return k.Client.Update(ctx, object, resource.UpdateOptions{WriteOptions: only, Mask: asked, AllowMissing: true})
}

// deny answers in the form of the API server's own refusals, field by field.
func deny(f *fault.Fault, cr *unstructured.Unstructured) admission.Response {
	code := int32(f.Class.HTTPStatus())
	status := &metav1.Status{
		Status: metav1.StatusFailure, Code: code, Message: f.Message, Reason: metav1.StatusReason(f.Reason),
		Details: &metav1.StatusDetails{Name: cr.GetName(), Kind: cr.GetKind()},
	}
	if f.Class == fault.Transient {
		status.Message = "the service can't be asked now, try again: " + f.Message
	}
	for _, field := range f.Fields {
		status.Details.Causes = append(status.Details.Causes, metav1.StatusCause{
			Type: metav1.CauseType(field.Rule), Message: field.Message, Field: field.Path,
		})
	}
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{Allowed: false, Result: status}}
}
