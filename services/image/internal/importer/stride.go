package importer

import "time"

const (
	// fastChunk is what a chunk takes at least when checkpoints don't hold the
	// import up.
	fastChunk = time.Second
	// longestStride bounds what a kill can cost, in chunks.
	longestStride = 8
)

// stride is how much is moved between two checkpoints: one chunk, and more where
// a chunk takes so little time that to wait for the disk costs more than to read
// the chunk again would.
type stride struct{ bytes, most int64 }

func newStride(chunk int64) *stride { return &stride{bytes: chunk, most: longestStride * chunk} }

// begin starts the clock of a chunk; who moved it and wrote that down calls done.
func (s *stride) begin() (done func()) {
	began := time.Now()
	return func() {
		if time.Since(began) < fastChunk {
			s.bytes = min(2*s.bytes, s.most)
		}
	}
}
