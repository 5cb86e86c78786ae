package job

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"orlop.dev/kit/durable"
	"orlop.dev/services/image/internal/importer"
)

// checkpointFile keeps the checkpoint of an import of one version. It stays when
// the import is done, and then tells which version that was.
type checkpointFile struct {
	path    string
	version int32
}

// record is what the file holds. The checkpoint has a secret in it.
type record struct {
	Version int32 `json:"version"`
	// Published is set once the image was in the registry: if it isn't there, it is
	// lost.
	Published  bool                `json:"published,omitempty"`
	Checkpoint importer.Checkpoint `json:"checkpoint"`
}

// Load implements importer.Checkpoints.
func (f checkpointFile) Load(context.Context) (importer.Checkpoint, error) {
	stored, found, err := f.read()
	if err != nil || !found || stored.Version != f.version {
		return importer.Checkpoint{}, err
	}
	return stored.Checkpoint, nil
}

// Save implements importer.Checkpoints.
func (f checkpointFile) Save(_ context.Context, c importer.Checkpoint) error {
	return f.write(record{Version: f.version, Checkpoint: c})
}

// Clear implements importer.Checkpoints.
func (f checkpointFile) Clear(context.Context) error {
	return f.write(record{Version: f.version})
}

// publish writes down that the image is in the registry.
func (f checkpointFile) publish() error {
	return f.write(record{Version: f.version, Published: true})
}

// read returns false if there is no file, or none that can be understood: the
// import begins anew then.
func (f checkpointFile) read() (record, bool, error) {
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, false, nil
	}
	if err != nil {
		return record{}, false, err
	}
	var stored record
	if json.Unmarshal(text, &stored) != nil {
		return record{}, false, nil //nolint:nilerr // No checkpoint is better than no import.
	}
	return stored, true, nil
}

// write replaces the file as a whole, durably.
func (f checkpointFile) write(r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return durable.WriteFile(f.path, text, 0o600)
}

func (f checkpointFile) remove() error { return durable.Remove(f.path) }
