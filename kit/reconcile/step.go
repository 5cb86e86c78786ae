package reconcile

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// step works on one object once and arranges when it is looked at again.
func (l *Loop[T]) step(ctx context.Context, q queue, key resource.Key) {
	obj, err := l.store.Get(key)
	switch {
	case fault.Is(err, fault.NotFound):
		q.Forget(key)
		return
	case err != nil:
		l.again(ctx, q, key, 0, err)
		return
	case resource.Terminating(obj) && !slices.Contains(obj.GetMetadata().GetFinalizers(), l.opts.Finalizer):
		// Nothing of ours is left; others hold the object.
		q.Forget(key)
		return
	}
	began := l.opts.Clock.Now()
	result, err := l.reconcile(ctx, obj)
	l.opts.Metrics.observe(l.opts.Name, fault.ClassOf(err), l.opts.Clock.Since(began))
	wait, writeErr := l.write(ctx, key, obj, result)
	if writeErr != nil {
		// The write is what has to be repeated; a failure of the step repeats with it.
		l.again(ctx, q, key, 0, writeErr)
		return
	}
	if wait > 0 && (result.After == 0 || wait < result.After) {
		result.After = wait
	}
	l.again(ctx, q, key, result.After, err)
}

// reconcile turns a panic into a fault: one object must not stop all others.
func (l *Loop[T]) reconcile(ctx context.Context, obj T) (result Result, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fault.Wrap(fmt.Errorf("panic: %v\n%s", v, debug.Stack()), fault.Internal, fault.ReasonInternal, "internal error")
		}
	}()
	return l.reconciler.Reconcile(ctx, resource.Clone(obj))
}

// write stores what a step came to. A wait that isn't zero is how long the
// status is held back.
func (l *Loop[T]) write(ctx context.Context, key resource.Key, obj T, result Result) (wait time.Duration, err error) {
	if result.Status != nil {
		if wait, err = l.writeStatus(ctx, key, obj, result.Status); err != nil {
			return 0, err
		}
	}
	if !result.Finalized || !resource.Terminating(obj) || resource.Held(obj) {
		return wait, nil
	}
	_, err = l.store.RemoveFinalizer(ctx, key, l.opts.Finalizer)
	return 0, err
}

func (l *Loop[T]) writeStatus(ctx context.Context, key resource.Key, obj T, status proto.Message) (wait time.Duration, err error) {
	old := statusOf(obj)
	if old != nil && proto.Equal(old, status) {
		return 0, nil
	}
	if !urgent(old, status) {
		if wait = l.pace.wait(key); wait > 0 {
			return wait, nil
		}
	}
	_, err = l.store.UpdateStatus(ctx, key, obj.GetMetadata().GetUid(), status)
	if fault.Is(err, fault.NotFound) {
		return 0, nil // the object went in the meantime
	}
	if err == nil {
		l.pace.wrote(key)
	}
	return 0, err
}

// again arranges the next look at an object: the class of a fault says when
// another one can help.
func (l *Loop[T]) again(ctx context.Context, q queue, key resource.Key, after time.Duration, err error) {
	if ctx.Err() != nil {
		return
	}
	f := fault.From(err)
	if f != nil {
		l.log(ctx, key, f)
		if f.RetryAfter > 0 {
			after = f.RetryAfter
		}
	}
	switch fault.ClassOf(err) {
	case fault.None, fault.Invalid, fault.Denied, fault.Unauthenticated, fault.Exists:
		// A change of the object wakes it up.
		q.Forget(key)
	case fault.NotReady, fault.NotFound, fault.Exhausted:
		q.Forget(key)
		if after == 0 {
			after = l.opts.SlowPoll
		}
	default:
		q.AddRateLimited(key)
		return
	}
	if after > 0 {
		q.AddAfter(key, after)
	}
}
