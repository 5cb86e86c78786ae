package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"orlop.dev/kit/fault"
)

// failure is the body of every answer that is an error, and the last line of a
// stream that ends with one.
type failure struct {
	// Type is Error in a stream, where it tells failures from changes.
	Type    string `json:"type,omitempty"`
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

// statusError is a fault for which HTTP has a code of its own.
type statusError struct {
	code int
	*fault.Fault
}

func (e *statusError) Unwrap() error { return e.Fault }

func failureOf(f *fault.Fault) failure {
	result := failure{Code: f.Class.HTTPStatus(), Reason: f.Reason, Message: f.Message}
	for _, field := range f.Fields {
		result.Fields = append(result.Fields, fieldFailure{Field: field.Path, Rule: field.Rule, Message: field.Message})
	}
	return result
}

// handleError implements runtime.ErrorHandlerFunc.
func handleError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) { //nolint:revive // grpc-gateway's signature
	writeError(w, err)
}

// handleRoutingError implements runtime.RoutingErrorHandlerFunc.
func handleRoutingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) { //nolint:revive // grpc-gateway's signature
	writeFailure(w, failure{Code: code, Reason: reasonOf(code), Message: "nothing is served for " + r.Method + " " + r.URL.Path})
}

func writeError(w http.ResponseWriter, err error) {
	var own *statusError
	var routing *runtime.HTTPStatusError
	switch {
	case errors.As(err, &own):
		body := failureOf(own.Fault)
		body.Code = own.code
		writeFailure(w, body)
	case errors.As(err, &routing):
		writeFailure(w, failure{Code: routing.HTTPStatus, Reason: reasonOf(routing.HTTPStatus), Message: routing.Error()})
	default:
		writeFault(w, fault.From(err))
	}
}

// reasonOf is a word for what only HTTP knows.
func reasonOf(code int) string {
	switch code {
	case http.StatusNotFound:
		return "RouteNotFound"
	case http.StatusMethodNotAllowed:
		return "MethodNotAllowed"
	}
	return "BadRequest"
}

func writeFault(w http.ResponseWriter, f *fault.Fault) {
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds()+1)))
	}
	writeFailure(w, failureOf(f))
}

func writeFailure(w http.ResponseWriter, body failure) {
	if body.Code == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="orlop"`)
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(body.Code)
	// The client is gone if this fails.
	_ = json.NewEncoder(w).Encode(body)
}
