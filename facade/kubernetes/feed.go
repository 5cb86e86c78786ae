package kubernetes

import (
	"context"
	"sync"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"orlop.dev/kit/resource"
)

// feed carries a mirror's events into a controller's queue. The mirror may run
// before the controller does: what was missed is asked for when it starts.
type feed struct {
	missed func() []resource.Object

	mu    sync.Mutex
	queue workqueue.TypedRateLimitingInterface[reconcile.Request]
}

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
	f.mu.Lock()
	queue := f.queue
	f.mu.Unlock()
	if queue == nil || event.Type == resource.Bookmark {
		return
	}
	queue.Add(requestOf(event.Object))
}

func requestOf(object resource.Object) reconcile.Request {
	return reconcile.Request{NamespacedName: client.ObjectKey(resource.KeyOf(object))}
}
