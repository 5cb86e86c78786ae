package image

import (
	"time"

	"orlop.dev/services/image/internal/source"
)

// Impatient makes imports retry at once, with small steps between checkpoints.
func Impatient(o Options, chunkBytes int64) Options {
	o.pace = pace{
		initial: time.Millisecond, max: 50 * time.Millisecond, chunkBytes: chunkBytes,
		retry: source.Retry{Attempts: 3, Initial: time.Millisecond, Max: 10 * time.Millisecond},
	}
	return o
}
