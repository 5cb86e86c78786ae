package gateway

import (
	"context"
	"net/http"
	"strings"

	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// passHeader hands on what traces a request. grpc-gateway's own choice would
// hand on every header that looks permanent; the credential it hands on
// whatever is said here, and a second copy would be refused.
func passHeader(key string) (string, bool) {
	switch key {
	case "Traceparent", "Tracestate", "X-Request-Id":
		return strings.ToLower(key), true
	}
	return "", false
}

// requireCredential refuses requests without one, before it is known whether
// anything is served at their path. Whether a credential is good is for the
// service to say.
func requireCredential(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			writeFault(w, fault.New(fault.Unauthenticated, auth.ReasonNoCredential, "a credential is required"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// writeETag shows the version of an object, for If-Match.
func writeETag(_ context.Context, w http.ResponseWriter, message proto.Message) error {
	object, ok := message.(resource.Object)
	if ok && object.GetMetadata().GetResourceVersion() != "" {
		w.Header().Set("ETag", `"`+object.GetMetadata().GetResourceVersion()+`"`)
	}
	return nil
}

// wantedVersion is the version that If-Match asks for, empty for any.
func wantedVersion(r *http.Request) string {
	version := strings.Trim(strings.TrimPrefix(r.Header.Get("If-Match"), "W/"), `"`)
	if version == "*" {
		return ""
	}
	return version
}
