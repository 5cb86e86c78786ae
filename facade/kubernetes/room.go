package kubernetes

import (
	"context"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"orlop.dev/facade/kubernetes/internal/native"
	podv1 "orlop.dev/gen/orlop/pod/v1"
	"orlop.dev/kit/fault"
)

// roomDelay is how long room that became free is left to the Pod of a VM that
// has moved: it takes the place of the one that made the room.
const roomDelay = time.Second

// WatchRoom implements PodServiceServer.
func (p *Pods) WatchRoom(_ *podv1.WatchRoomRequest, stream grpc.ServerStreamingServer[podv1.WatchRoomResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	changed := make(chan string)
	tell := func(namespace string) {
		select {
		case changed <- namespace:
		case <-ctx.Done():
		}
	}
	factory := informers.NewSharedInformerFactory(p.client, 0)
	defer factory.Shutdown()
	defer cancel()
	if err := watchRoom(factory, tell); err != nil {
		return withoutPods(err)
	}
	factory.Start(ctx.Done())
	due := map[string]bool{}
	var delay <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case namespace := <-changed:
			if len(due) == 0 {
				delay = time.After(roomDelay)
			}
			due[namespace] = true
		case <-delay:
			for namespace := range due {
				if err := stream.Send(&podv1.WatchRoomResponse{Namespace: namespace}); err != nil {
					return fault.Wrap(err, fault.Transient, "StreamEnded", "the watch ended")
				}
			}
			clear(due)
		}
	}
}

// watchRoom tells of the namespaces of quotas and limits that are there, go, or
// come to allow more.
func watchRoom(factory informers.SharedInformerFactory, tell func(namespace string)) error {
	_, err := factory.Core().V1().ResourceQuotas().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { tell(namespaceOf(object)) },
		UpdateFunc: func(old, object any) {
			before, wasQuota := old.(*corev1.ResourceQuota)
			now, isQuota := object.(*corev1.ResourceQuota)
			if wasQuota && isQuota && native.Relaxed(before, now) {
				tell(now.Namespace)
			}
		},
		DeleteFunc: func(object any) { tell(namespaceOf(object)) },
	})
	if err != nil {
		return err
	}
	_, err = factory.Core().V1().LimitRanges().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { tell(namespaceOf(object)) },
		UpdateFunc: func(_, object any) { tell(namespaceOf(object)) },
		DeleteFunc: func(object any) { tell(namespaceOf(object)) },
	})
	return err
}

// namespaceOf is also that of an object of which only its key is known any more.
func namespaceOf(object any) string {
	key, err := cache.DeletionHandlingObjectToName(object)
	if err != nil {
		return ""
	}
	return key.Namespace
}
