package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/manifest"
)

// Defaulter writes into custom resources what their services fill in, so that it
// shows in what is stored.
type Defaulter struct{ Handler }

// Handle implements admission.Handler.
func (d Defaulter) Handle(ctx context.Context, request admission.Request) admission.Response {
	kind, known := d.Kinds[schema.GroupVersionKind(request.Kind)]
	if !known {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("no service has the kind %s", request.Kind))
	}
	cr := new(unstructured.Unstructured)
	if err := json.Unmarshal(request.Object.Raw, &cr.Object); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	object, err := kind.ask(onBehalfOf(ctx, request), cr, request)
	if err != nil {
		return deny(fault.From(err), cr)
	}
	stored, err := manifest.Encode(object)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	for _, path := range kind.Defaulted {
		names := strings.Split("spec."+path, ".")
		value, found, _ := unstructured.NestedString(stored, names...)
		if !found {
			continue
		}
		if err := unstructured.SetNestedField(cr.Object, value, names...); err != nil {
			return admission.Errored(http.StatusBadRequest, err)
		}
	}
	filled, err := json.Marshal(cr.Object)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(request.Object.Raw, filled)
}
