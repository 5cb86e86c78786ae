package reconcile

import (
	"bytes"
	"context"
	"crypto/sha256"

	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// listen queues the objects whose wanted state changes. A watch that fell too
// far behind begins anew, with all objects.
func (l *Loop[T]) listen(ctx context.Context, q queue) error {
	for {
		err := l.watch(ctx, q)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // ctx ended
		}
		if !fault.Is(err, fault.Stale, fault.Transient) {
			return err
		}
		l.opts.Logger.Warn("watch begins anew", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-l.opts.Clock.After(watchPause):
		}
	}
}

// watch ends with the error that the collection's watch ended with.
func (l *Loop[T]) watch(ctx context.Context, q queue) error {
	wanted := map[resource.Key][]byte{}
	for event, err := range l.store.Watch(ctx, resource.WatchOptions{}) {
		if err != nil {
			return err
		}
		switch event.Type {
		case resource.Added, resource.Modified:
			key := resource.KeyOf(event.Object)
			digest, err := wantedDigest(event.Object)
			if err != nil {
				return err
			}
			// The loop's own writes of status come back as events too.
			if !bytes.Equal(digest, wanted[key]) {
				wanted[key] = digest
				q.Forget(key)
				q.Add(key)
			}
		case resource.Deleted:
			key := resource.KeyOf(event.Object)
			delete(wanted, key)
			q.Forget(key)
			l.pace.forget(key)
		}
	}
	return fault.New(fault.Transient, "WatchEnded", "the watch ended")
}

// wantedDigest is of all of an object that others write: not its status, nor
// the version that grows with each write of that.
func wantedDigest[T resource.Object](obj T) ([]byte, error) {
	rest := resource.Clone(obj)
	if status := rest.ProtoReflect().Descriptor().Fields().ByName("status"); status != nil {
		rest.ProtoReflect().Clear(status)
	}
	if m := rest.GetMetadata(); m != nil {
		m.ResourceVersion = ""
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(rest)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(b)
	return digest[:], nil
}
