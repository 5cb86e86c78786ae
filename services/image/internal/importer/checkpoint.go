package importer

import (
	"context"

	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/source"
	"orlop.dev/services/image/internal/sparse"
)

// Checkpoint is how far an import is durable. It is made for JSON. The upload's
// location in it is a secret.
type Checkpoint struct {
	// Resumable is false while nothing but the upload, to be dropped, is known.
	Resumable bool             `json:"resumable"`
	Format    diskimage.Format `json:"format,omitempty"`

	// Offset counts the bytes of the source that are stored; Checksums is the
	// state of their hashes.
	Offset    int64             `json:"offset"`
	Validator source.Validator  `json:"validator"`
	Checksums map[string][]byte `json:"checksums,omitempty"`

	// Sparse is the state of the staging file while the source is read, Staged
	// what it holds after that.
	Sparse *sparse.State  `json:"sparse,omitempty"`
	Staged *sparse.Result `json:"staged,omitempty"`

	Upload *dvcr.Checkpoint `json:"upload,omitempty"`
	// Blob is what the upload is committed as, from just before that on.
	Blob *dvcr.Blob `json:"blob,omitempty"`
}

// Checkpoints keeps the checkpoint of one import, for one source: who changes
// the source calls Forget first. Save is durable when it returns.
type Checkpoints interface {
	// Load returns the zero Checkpoint if there is none.
	Load(ctx context.Context) (Checkpoint, error)
	Save(ctx context.Context, c Checkpoint) error
	Clear(ctx context.Context) error
}

// memory keeps a checkpoint for the life of the import.
type memory struct{ c Checkpoint }

func (m *memory) Load(context.Context) (Checkpoint, error)   { return m.c, nil }
func (m *memory) Save(_ context.Context, c Checkpoint) error { m.c = c; return nil }
func (m *memory) Clear(context.Context) error                { m.c = Checkpoint{}; return nil }
