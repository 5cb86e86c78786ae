package kubernetes

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"orlop.dev/kit/resource"
)

// feed carries a mirror's events into a controller's queue. The mirror may run
// before the controller does: what was missed is asked for when it starts.
type feed struct {
	missed func() []resource.Object
	// anew is told when the mirror is complete after a new beginning.
	anew chan struct{}

	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
}

func newFeed() *feed { return &feed{anew: make(chan struct{}, 1)} }

// Start implements source.Source. It does not block.
func (f *feed) Start(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	f.mu.Lock()
	f.queue = queue
	f.mu.Unlock()
	for _, object := range f.missed() {
		queue.Add(requestOf(object))
	}
	return nil
}

// handle is a mirror's handler.
func (f *feed) handle(event resource.Event[resource.Object]) {
	if event.Type == resource.Bookmark {
		select {
		case f.anew <- struct{}{}:
		default: // one is waiting already
		}
		return
	}
	f.add(requestOf(event.Object))
}

func (f *feed) add(request reconcile.Request) {
	f.mu.Lock()
	queue := f.queue
	f.mu.Unlock()
	if queue != nil {
		queue.Add(request)
	}
}

// followBeginnings looks at every custom resource of a kind after each new
// beginning of its mirror, until ctx ends: a service that lost its store says
// nothing about what it no longer knows.
func (f *feed) followBeginnings(ctx context.Context, known cache.Cache, gvk schema.GroupVersionKind) error {
	if !known.WaitForCacheSync(ctx) {
		return nil // ctx has ended
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.anew:
		}
		if err := f.addAll(ctx, known, gvk); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// addAll queues every custom resource of a kind.
func (f *feed) addAll(ctx context.Context, known cache.Cache, gvk schema.GroupVersionKind) error {
	list := new(unstructured.UnstructuredList)
	list.SetGroupVersionKind(gvk)
	if err := known.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list %s: %w", gvk.Kind, err)
	}
	for i := range list.Items {
		f.add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return nil
}

func requestOf(object resource.Object) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKey(resource.KeyOf(object))}
}
