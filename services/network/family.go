package network

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/services/network/internal/lease"
	"orlop.dev/services/network/internal/reservation"
)

// followPause is between two watches of which the first one broke.
const followPause = time.Second

// family is the objects of one kind of address, and their leases.
type family[A lease.Address, T, L resource.Object] struct {
	kind      reservation.Kind[A, T]
	addresses *resource.Collection[T]
	methods   *resource.Methods[T]
	loop      *reconcile.Loop[T]
	rules     *reservation.Reconciler[A, T]

	leases       *resource.Collection[L]
	leaseMethods *resource.Methods[L]
	leaseLoop    *reconcile.Loop[L]
	book         *lease.Book[A, L]
}

// names of a family's parts.
type names struct {
	// loop and leaseLoop are for metrics and logs.
	loop, leaseLoop           string
	finalizer, leaseFinalizer string
}

// makeup is what a family is made of.
type makeup[A lease.Address, T, L resource.Object] struct {
	names names
	kind  reservation.Kind[A, T]
	form  lease.Form[L]
	space lease.Space[A]
	// object and lease are empty messages of the two kinds.
	object, lease proto.Message
}

// newFamily makes the collections of a family and its leases' rules; those of its
// addresses come by wire.
func newFamily[A lease.Address, T, L resource.Object](opts Options, m makeup[A, T, L]) (*family[A, T, L], error) {
	f := &family[A, T, L]{kind: m.kind}
	leases, rules, err := collection[L](opts, m.lease, m.names.leaseFinalizer)
	if err != nil {
		return nil, err
	}
	f.leases, f.book = leases, lease.NewBook(leases, m.space, m.form, lease.Uptime)
	f.leaseMethods, err = resource.NewMethods(resource.MethodOptions[L]{Collection: leases, Schema: rules, Admit: f.book.Admit})
	if err != nil {
		return nil, err
	}
	f.leaseLoop = reconcile.New(leases, &lease.Reconciler[A, L]{Book: f.book, Claimant: f.claimant, Now: opts.now}, reconcile.Options{
		Name: m.names.leaseLoop, Finalizer: m.names.leaseFinalizer, Logger: opts.Logger,
	})
	addresses, rules, err := collection[T](opts, m.object, m.names.finalizer)
	if err != nil {
		return nil, err
	}
	f.addresses = addresses
	f.methods, err = resource.NewMethods(resource.MethodOptions[T]{
		Collection: addresses, Schema: rules, Admit: reservation.Admission[A, T]{Kind: m.kind, Leases: f.book}.Admit,
	})
	f.rules = &reservation.Reconciler[A, T]{Kind: m.kind, Leases: f.book, Check: f.book.Check, Now: opts.now}
	return f, err
}

// wire makes the loop of the addresses.
func (f *family[A, T, L]) wire(opts Options, n names, owners reconcile.Owners) {
	var rules reconcile.Reconciler[T] = f.rules
	if owners != nil {
		rules = reconcile.Cascade(f.addresses, owners, rules)
	}
	f.loop = reconcile.New(f.addresses, rules, reconcile.Options{Name: n.loop, Finalizer: n.finalizer, Logger: opts.Logger})
}

func (f *family[A, T, L]) register(registrar grpc.ServiceRegistrar, addresses, leases *grpc.ServiceDesc, impl any) error {
	if err := resource.Register(registrar, leases, nil, f.leaseMethods); err != nil {
		return err
	}
	return resource.Register(registrar, addresses, impl, f.methods)
}

func (f *family[A, T, L]) ready(ctx context.Context) error {
	if err := f.leases.WaitSynced(ctx); err != nil {
		return err
	}
	return f.addresses.WaitSynced(ctx)
}

// run keeps the copies and follows them, until ctx ends.
func (f *family[A, T, L]) run(ctx context.Context, s *Service) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.leases.Run(ctx) })
	group.Go(func() error { return f.addresses.Run(ctx) })
	group.Go(func() error { return f.followLeases(ctx, s) })
	return group.Wait()
}

// work reconciles, until ctx ends.
func (f *family[A, T, L]) work(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.leaseLoop.Run(ctx) })
	group.Go(func() error { return f.loop.Run(ctx) })
	return group.Wait()
}

// claimant is what leases need to know of an address.
func (f *family[A, T, L]) claimant(ctx context.Context, key resource.Key, fresh bool) (lease.Claimant, bool, error) {
	object, err := f.addresses.Get(key)
	if fresh {
		object, err = f.addresses.Fetch(ctx, key)
	}
	if fault.Is(err, fault.NotFound) {
		return lease.Claimant{}, false, nil
	}
	if err != nil {
		return lease.Claimant{}, false, err
	}
	return lease.Claimant{UID: object.GetMetadata().GetUid(), Address: f.kind.Status(object).Address}, true, nil
}

// followLeases has those looked at that a change of a lease concerns, until ctx
// ends.
func (f *family[A, T, L]) followLeases(ctx context.Context, s *Service) error {
	if err := f.leases.WaitSynced(ctx); err != nil {
		return nil //nolint:nilerr // ctx ended
	}
	for ctx.Err() == nil {
		for event, err := range f.leases.Watch(ctx, resource.WatchOptions{}) {
			if err != nil {
				s.log.DebugContext(ctx, "watch of leases begins anew", "error", err)
				break
			}
			f.leaseChanged(event)
		}
		select {
		case <-ctx.Done():
		case <-time.After(followPause):
		}
	}
	return nil
}

func (f *family[A, T, L]) leaseChanged(event resource.Event[L]) {
	if event.Type == resource.Bookmark {
		return
	}
	owner, owned := f.book.OwnerKey(event.Object)
	if owned && event.Type != resource.Deleted {
		f.book.Observe(event.Object)
		f.loop.Trigger(owner)
		return
	}
	// An address is, or soon will be, free.
	for _, key := range f.rules.Waiting() {
		f.loop.Trigger(key)
	}
}

// ownerGone has those looked at that went with the object of that UID.
func (f *family[A, T, L]) ownerGone(namespace, uid string) {
	// While the copy is not there yet, the loop will see every address anyway.
	_ = f.addresses.Each(namespace, func(object T) {
		for _, owner := range object.GetMetadata().GetOwnerReferences() {
			if owner.GetUid() == uid {
				f.loop.Trigger(resource.KeyOf(object))
			}
		}
	})
}
