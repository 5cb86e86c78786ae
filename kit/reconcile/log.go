package reconcile

import (
	"context"
	"log/slog"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// log tells of a failed step. What waits for others is the user's to see in
// the status; what is our mistake somebody should look at.
func (l *Loop[T]) log(ctx context.Context, key resource.Key, f *fault.Fault) {
	level := slog.LevelDebug
	switch f.Class {
	case fault.Internal:
		level = slog.LevelError
	case fault.Transient, fault.Exhausted:
		level = slog.LevelInfo
	}
	l.opts.Logger.LogAttrs(ctx, level, "step failed", slog.String("object", key.String()),
		slog.String("class", f.Class.String()), slog.String("reason", f.Reason), slog.String("error", f.Error()))
}
