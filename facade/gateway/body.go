package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"google.golang.org/protobuf/reflect/protoregistry"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/manifest"
)

// maxBodyBytes is etcd's own limit for an object, and a margin for JSON.
const maxBodyBytes = 4 << 20

// readBody reads the body whole, judges it as a manifest, and puts it back with
// the version that If-Match asks for. grpc-gateway decodes it once more.
func (c call) readBody(w http.ResponseWriter, r *http.Request) error {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	switch tooLarge := new(http.MaxBytesError); {
	case errors.As(err, &tooLarge):
		return &statusError{http.StatusRequestEntityTooLarge,
			fault.New(fault.Invalid, "BodyTooLarge", "the body is larger than %d bytes", tooLarge.Limit)}
	case err != nil:
		return fault.Wrap(err, fault.Transient, "BodyNotRead", "the body could not be read")
	case len(bytes.TrimSpace(text)) == 0:
		return fault.New(fault.Invalid, "BodyRequired", "the body must be a manifest, in JSON")
	}
	messageType, err := protoregistry.GlobalTypes.FindMessageByName(c.body.FullName())
	if err != nil {
		return err
	}
	if err := manifest.DecodeJSON(text, messageType.New().Interface()); err != nil {
		return err
	}
	if version := wantedVersion(r); version != "" {
		if text, err = withVersion(text, version); err != nil {
			return err
		}
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	return nil
}

// withVersion writes the version into a manifest's metadata.
func withVersion(text []byte, version string) ([]byte, error) {
	var body, metadata map[string]json.RawMessage
	if err := json.Unmarshal(text, &body); err != nil {
		return nil, err
	}
	if len(body["metadata"]) > 0 {
		if err := json.Unmarshal(body["metadata"], &metadata); err != nil {
			return nil, err
		}
	}
	if body == nil {
		body = map[string]json.RawMessage{}
	}
	if metadata == nil {
		metadata = map[string]json.RawMessage{}
	}
	var err error
	if metadata["resourceVersion"], err = json.Marshal(version); err != nil {
		return nil, err
	}
	if body["metadata"], err = json.Marshal(metadata); err != nil {
		return nil, err
	}
	return json.Marshal(body)
}
