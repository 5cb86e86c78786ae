// Package toy is a service of one kind: what CONTRIBUTING says it takes, and no
// more.
package toy

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"orlop.dev/gen/crd"
	toyv1 "orlop.dev/gen/orlop/toy/v1"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
	"orlop.dev/kit/serve"
)

const finalizer = "toys.orlop.dev/broom"

// Reconcile looks whether a toy has wheels enough to roll.
func Reconcile(_ context.Context, toy *toyv1.Toy) (reconcile.Result, error) {
	status := &toyv1.ToyStatus{Phase: toyv1.ToyPhase_Ready, ObservedGeneration: toy.GetMetadata().GetGeneration()}
	if toy.GetSpec().GetWheels() < 3 {
		status.Phase = toyv1.ToyPhase_Broken
	}
	return reconcile.Result{Status: status, Finalized: resource.Terminating(toy)}, nil
}

// New wires the service.
func New(etcd *clientv3.Client) (serve.Part, error) {
	k := kind.Must(&toyv1.Toy{})
	rules, err := schema.Find(crd.FS, k)
	if err != nil {
		return serve.Part{}, err
	}
	toys, err := resource.NewCollection[*toyv1.Toy](etcd, "/toys", k, resource.Options{Finalizers: []string{finalizer}, Schema: rules})
	if err != nil {
		return serve.Part{}, err
	}
	methods, err := resource.NewMethods(resource.MethodOptions[*toyv1.Toy]{Collection: toys, Schema: rules})
	if err != nil {
		return serve.Part{}, err
	}
	loop := reconcile.New(toys, reconcile.Func[*toyv1.Toy](Reconcile), reconcile.Options{Name: "toy", Finalizer: finalizer})
	return serve.Part{
		Name: "toy", Ready: toys.WaitSynced,
		Register: func(r grpc.ServiceRegistrar) error {
			return resource.Register(r, &toyv1.ToyService_ServiceDesc, nil, methods)
		},
		Run: func(ctx context.Context) error {
			group, ctx := errgroup.WithContext(ctx)
			group.Go(func() error { return toys.Run(ctx) })
			group.Go(func() error { return loop.Run(ctx) })
			return group.Wait()
		},
	}, nil
}
