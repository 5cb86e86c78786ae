package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"orlop.dev/kit/fault"
)

// failure is the body of every answer that is an error.
type failure struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Fields are what is wrong in the body, one by one.
	Fields []fieldFailure `json:"fields,omitempty"`
}

type fieldFailure struct {
	Field   string `json:"field"`
	Rule    string `json:"rule"`
	Message string `json:"message"`
}

func writeError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	writeFault(w, fault.From(fault.FromStatus(err)))
}

func writeRoutingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	writeFailure(w, failure{Code: code, Reason: http.StatusText(code), Message: "nothing is served for " + r.Method + " " + r.URL.Path})
}

func writeFault(w http.ResponseWriter, f *fault.Fault) {
	body := failure{Code: f.Class.HTTPStatus(), Reason: f.Reason, Message: f.Message}
	for _, field := range f.Fields {
		body.Fields = append(body.Fields, fieldFailure{Field: field.Path, Rule: field.Rule, Message: field.Message})
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds()+1)))
	}
	writeFailure(w, body)
}

func writeFailure(w http.ResponseWriter, body failure) {
	if body.Code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="orlop"`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(body.Code)
	// The client is gone if this fails.
	_ = json.NewEncoder(w).Encode(body)
}

