package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// maxBodyBytes is etcd's own limit for an object, and a margin for JSON.
const maxBodyBytes = 4 << 20

// passHeader hands on the credential and what traces a request; grpc-gateway's
// own choice would hand on every header that looks permanent.
func passHeader(key string) (string, bool) {
	switch key {
	case "Authorization":
		return "authorization", true
	case "Traceparent", "Tracestate", "X-Request-Id":
		return strings.ToLower(key), true
	}
	return "", false
}

// writeETag shows the version of an object, for If-Match.
func writeETag(_ context.Context, w http.ResponseWriter, message proto.Message) error {
	if object, ok := message.(resource.Object); ok && object.GetMetadata() != nil {
		w.Header().Set("ETag", `"`+object.GetMetadata().GetResourceVersion()+`"`)
	}
	return nil
}

// withPreconditions says in the request's own words what HTTP says in headers:
// If-Match is the version that an object must have, Idempotency-Key the
// request's identity. It also bounds the body.
func withPreconditions(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		query := r.URL.Query()
		if key := r.Header.Get("Idempotency-Key"); key != "" {
			query.Set("requestId", key)
		}
		version := strings.Trim(r.Header.Get("If-Match"), `"`)
		if version == "" || version == "*" {
			r.URL.RawQuery = query.Encode()
			next.ServeHTTP(w, r)
			return
		}
		if r.Method == http.MethodDelete {
			query.Set("etag", version)
		} else if err := requireVersion(r, version); err != nil {
			writeFault(w, fault.From(err))
			return
		}
		r.URL.RawQuery = query.Encode()
		next.ServeHTTP(w, r)
	})
}

// requireVersion writes the version into the body's metadata.
func requireVersion(r *http.Request, version string) error {
	text, err := io.ReadAll(r.Body)
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return fault.New(fault.Invalid, "BodyTooLarge", "the body is larger than %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return fault.Wrap(err, fault.Transient, "BodyNotRead", "the body could not be read")
	}
	body := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &body); err != nil {
		return fault.Wrap(err, fault.Invalid, "Invalid", "the body is no JSON object")
	}
	metadata := map[string]json.RawMessage{}
	if len(body["metadata"]) > 0 {
		if err := json.Unmarshal(body["metadata"], &metadata); err != nil {
			return fault.Wrap(err, fault.Invalid, "Invalid", "metadata is no JSON object")
		}
	}
	if metadata["resourceVersion"], err = json.Marshal(version); err != nil {
		return err
	}
	if body["metadata"], err = json.Marshal(metadata); err != nil {
		return err
	}
	if text, err = json.Marshal(body); err != nil {
		return err
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	return nil
}

