package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	"orlop.dev/kit/resource"
)

// Options tune a Loop. Name is required; the rest works as zero.
type Options struct {
	// Name is the loop's in logs and metrics.
	Name string
	// Finalizer is the one that the collection gives each new object (see
	// resource.Options.Finalizers). The loop removes it from a terminating object
	// once the reconciler has finalized it and no active holder is left.
	Finalizer string
	// Workers is how many objects are worked on at once; 0 means 4.
	Workers int
	// SlowPoll is how long an object waits for something that it depends on,
	// if no event says more; 0 means 30 s.
	SlowPoll time.Duration
	// Clock is the real one where it is nil.
	Clock clock.WithTicker
	// Logger is slog.Default() where it is nil.
	Logger *slog.Logger
	// Metrics count the loop's work; nil counts nothing.
	Metrics *Metrics
}

func (o Options) withDefaults() Options {
	if o.Workers == 0 {
		o.Workers = 4
	}
	if o.SlowPoll == 0 {
		o.SlowPoll = 30 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Logger = o.Logger.With("loop", o.Name)
	return o
}

// queue has each key at most once, and gives it to one worker at a time.
type queue = workqueue.TypedRateLimitingInterface[resource.Key]

// Loop works on the objects of one collection.
type Loop[T resource.Object] struct {
	store      Store[T]
	reconciler Reconciler[T]
	opts       Options
	pace       *pace

	mu    sync.Mutex
	queue queue // nil while Run isn't running
}

// New returns a loop. Nothing happens until Run.
func New[T resource.Object](store Store[T], r Reconciler[T], opts Options) *Loop[T] {
	opts = opts.withDefaults()
	return &Loop[T]{store: store, reconciler: r, opts: opts, pace: newPace(opts.Clock)}
}

// Run works until ctx ends, and returns nil then, after the last step under way
// has returned. It begins with every object, so nothing that happened before
// matters. It may run again, but not twice at once.
func (l *Loop[T]) Run(ctx context.Context) error {
	if err := l.store.WaitSynced(ctx); err != nil {
		return ignoreEnd(ctx, err)
	}
	q := workqueue.NewTypedRateLimitingQueueWithConfig(newBackoff(), workqueue.TypedRateLimitingQueueConfig[resource.Key]{Clock: l.opts.Clock})
	l.setQueue(q)
	defer l.setQueue(nil)
	group, ctx := errgroup.WithContext(ctx)
	for range l.opts.Workers {
		group.Go(func() error { l.work(ctx, q); return nil })
	}
	group.Go(func() error { return l.listen(ctx, q) })
	stop := context.AfterFunc(ctx, q.ShutDown)
	defer stop()
	return ignoreEnd(ctx, group.Wait())
}

// ignoreEnd drops the error of a context that ended: that is how a loop ends.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

// Trigger has an object looked at, because something that it depends on
// changed. It never blocks; while Run isn't running it does nothing, as Run
// begins with all objects.
func (l *Loop[T]) Trigger(key resource.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.queue != nil {
		l.queue.Add(key)
	}
}

func (l *Loop[T]) setQueue(q queue) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = q
}

func (l *Loop[T]) work(ctx context.Context, q queue) {
	for {
		key, shutdown := q.Get()
		if shutdown {
			return
		}
		l.step(ctx, q, key)
		q.Done(key)
	}
}
