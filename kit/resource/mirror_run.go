package resource

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"

	"orlop.dev/kit/fault"
)

// maxMirrorDelay bounds the pause between attempts to reach the service.
const maxMirrorDelay = 10 * time.Second

var (
	errOtherStore  = errors.New("another store answers")
	errStreamEnded = errors.New("the watch ended")
)

// Run keeps the mirror until ctx ends, and returns nil then. It reconnects with
// back-off and jitter, resuming where it was, and begins anew where it can't:
// objects that are gone by then are told as Deleted. Where another store answers
// (see Store), everything is forgotten and nothing is told as Deleted: a store
// that was lost says nothing about its objects.
func (m *Mirror[T]) Run(ctx context.Context) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, maxMirrorDelay
	for {
		err := m.follow(ctx, pause)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // ctx ended
		}
		if m.beginsAnew(err) {
			m.log.InfoContext(ctx, "the mirror begins anew", slog.Any("reason", err))
		} else {
			m.log.WarnContext(ctx, "the mirror waits for its service", slog.Any("error", err))
		}
		select {
		case <-time.After(pause.NextBackOff()):
		case <-ctx.Done():
			return nil
		}
	}
}

// beginsAnew reports whether err ends the place in the watch, and forgets it then.
func (m *Mirror[T]) beginsAnew(err error) bool {
	if fault.ReasonOf(err) != ReasonTooOld && !errors.Is(err, errOtherStore) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.version = ""
	return true
}

// follow watches once, from where the mirror is.
func (m *Mirror[T]) follow(ctx context.Context, pause *backoff.ExponentialBackOff) error {
	m.mu.Lock()
	from := m.version
	m.mu.Unlock()
	var told map[Key]bool // not nil while the present objects are being told
	if from == "" {
		told = map[Key]bool{}
	}
	for e, err := range m.client.Watch(ctx, WatchOptions{ResourceVersion: from}) {
		if err != nil {
			return err
		}
		pause.Reset()
		if told, err = m.hear(e, told); err != nil {
			return err
		}
	}
	return errStreamEnded
}

// hear takes one event of the watch in.
func (m *Mirror[T]) hear(e Event[T], told map[Key]bool) (map[Key]bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.meet(e.Store) {
		return nil, errOtherStore
	}
	switch e.Type {
	case Bookmark:
		if told != nil {
			m.retain(told, e.ResourceVersion)
		}
		m.advance(e.ResourceVersion)
		if told != nil {
			m.whole = true
			m.handler(e)
			m.syncOnce.Do(func() { close(m.synced) })
		}
		return nil, nil
	case Deleted:
		m.hearDeleted(e)
	default:
		m.take(e.Object)
		if told != nil {
			told[KeyOf(e.Object)] = true
		}
	}
	if told == nil {
		m.advance(e.ResourceVersion)
	}
	return told, nil
}

func (m *Mirror[T]) hearDeleted(e Event[T]) {
	key := KeyOf(e.Object)
	if old, had := m.objects[key]; had && Newer(e.ResourceVersion, old.GetMetadata().GetResourceVersion()) {
		m.bury(key, e.Object)
	}
}
