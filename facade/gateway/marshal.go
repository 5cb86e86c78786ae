package gateway

import (
	"encoding/json"
	"io"
	"reflect"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/manifest"
)

const (
	contentType = "application/json"
	// streamContentType is newline-delimited JSON.
	streamContentType = "application/x-ndjson"
)

// manifestMarshaler reads bodies as manifests: strictly, with Kubernetes' forms
// of quantities and nulls. What it writes is what a manifest has, no more.
type manifestMarshaler struct{ runtime.JSONPb }

func newManifestMarshaler() *manifestMarshaler { return &manifestMarshaler{} }

// ContentType implements runtime.Marshaler.
func (m *manifestMarshaler) ContentType(any) string { return contentType }

// StreamContentType implements runtime.StreamContentType.
func (m *manifestMarshaler) StreamContentType(any) string { return streamContentType }

// Marshal implements runtime.Marshaler. The elements of a stream are written
// without the wrappers that grpc-gateway puts around them: changes as they are,
// the error that ends the stream as a failure.
func (m *manifestMarshaler) Marshal(v any) ([]byte, error) {
	switch wrapper := v.(type) {
	case map[string]proto.Message:
		if wire, ok := wrapper["error"].(*spb.Status); ok {
			body := failureOf(fault.From(status.FromProto(wire).Err()))
			body.Type = "Error"
			return json.Marshal(body)
		}
	case map[string]any:
		if element, found := wrapper["result"]; found && len(wrapper) == 1 {
			v = element
		}
	}
	return m.JSONPb.Marshal(v)
}

// Unmarshal implements runtime.Marshaler.
func (m *manifestMarshaler) Unmarshal(text []byte, v any) error {
	message, ok := messageIn(v)
	if !ok {
		return m.JSONPb.Unmarshal(text, v)
	}
	return manifest.DecodeJSON(text, message)
}

// NewDecoder implements runtime.Marshaler.
func (m *manifestMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		text, err := io.ReadAll(r)
		switch {
		case err != nil:
			return err
		case len(text) == 0:
			return io.EOF
		}
		return m.Unmarshal(text, v)
	})
}

// messageIn returns the message that v points to, made where it is missing: the
// body of a request is a field of the request's message.
func messageIn(v any) (proto.Message, bool) {
	if message, ok := v.(proto.Message); ok {
		return message, true
	}
	pointer := reflect.ValueOf(v)
	if pointer.Kind() != reflect.Pointer || pointer.Elem().Kind() != reflect.Pointer {
		return nil, false
	}
	if pointer.Elem().IsNil() {
		pointer.Elem().Set(reflect.New(pointer.Elem().Type().Elem()))
	}
	message, ok := pointer.Elem().Interface().(proto.Message)
	return message, ok
}
