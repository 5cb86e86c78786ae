package network

import (
	"context"
	"strings"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/services/network/internal/lease"
)

// followPause is between two watches of which the first one broke.
const followPause = time.Second

// followLeases has those looked at that a change of a lease concerns, until ctx
// ends.
func (s *Service) followLeases(ctx context.Context) error {
	if err := s.leases.WaitSynced(ctx); err != nil {
		return nil //nolint:nilerr // ctx ended
	}
	for ctx.Err() == nil {
		for event, err := range s.leases.Watch(ctx, resource.WatchOptions{}) {
			if err != nil {
				s.log.DebugContext(ctx, "watch of leases begins anew", "error", err)
				break
			}
			s.leaseChanged(event)
		}
		select {
		case <-ctx.Done():
		case <-time.After(followPause):
		}
	}
	return nil
}

func (s *Service) leaseChanged(event resource.Event[ipLease]) {
	if event.Type == resource.Bookmark {
		return
	}
	owner, owned := lease.OwnerKey(event.Object)
	if owned && event.Type != resource.Deleted {
		s.book.Observe(event.Object)
		s.addressLoop.Trigger(owner)
		return
	}
	// An address is, or soon will be, free.
	for _, key := range s.rules.Waiting() {
		s.addressLoop.Trigger(key)
	}
}

// claimant is what leases need to know of a VirtualMachineIPAddress.
func (s *Service) claimant(key resource.Key) (lease.Claimant, bool, error) {
	ip, err := s.addresses.Get(key)
	if fault.Is(err, fault.NotFound) {
		return lease.Claimant{}, false, nil
	}
	return lease.Claimant{UID: ip.GetMetadata().GetUid(), Address: ip.GetStatus().GetAddress()}, err == nil, err
}

func (s *Service) allAddresses() ([]ipAddress, error) { return s.addresses.All("", nil) }

// cascade adds to the rules of addresses that one goes with its VM.
func (s *Service) cascade(opts Options) (reconcile.Reconciler[ipAddress], error) {
	if opts.VirtualMachines == nil {
		return s.rules, nil
	}
	client, err := resource.NewClient[*vmv1.VirtualMachine](opts.VirtualMachines, kind.Must(&vmv1.VirtualMachine{}))
	if err != nil {
		return nil, err
	}
	s.machines = resource.NewMirror(client, resource.MirrorOptions[*vmv1.VirtualMachine]{
		Handler: s.machineChanged, Logger: opts.Logger,
	})
	return reconcile.Cascade(s.addresses, s.ownerIsThere, s.rules), nil
}

func (s *Service) machineChanged(event resource.Event[*vmv1.VirtualMachine]) {
	if event.Type != resource.Deleted {
		return
	}
	gone := event.Object.GetMetadata()
	addresses, err := s.addresses.All(gone.GetNamespace(), nil)
	if err != nil {
		return // the copy is not there yet; the loop will see every address anyway
	}
	for _, ip := range addresses {
		for _, owner := range ip.GetMetadata().GetOwnerReferences() {
			if owner.GetUid() == gone.GetUid() {
				s.addressLoop.Trigger(resource.KeyOf(ip))
			}
		}
	}
}

// ownerIsThere implements reconcile.Owners. What isn't a VM is somebody else's to
// know.
func (s *Service) ownerIsThere(ctx context.Context, namespace string, owner *metav1.OwnerReference) (bool, error) {
	k := s.machines.Client().Kind()
	group, _, _ := strings.Cut(owner.GetApiVersion(), "/")
	if owner.GetKind() != k.Name || group != k.Group {
		return true, nil
	}
	key := resource.Key{Namespace: namespace, Name: owner.GetName()}
	if machine, found := s.machines.Get(key); found && means(owner, machine) {
		return true, nil
	}
	// The mirror may lag behind a VM that was just made.
	machine, err := s.machines.Client().Get(ctx, key)
	switch {
	case fault.Is(err, fault.NotFound):
		return false, nil
	case err != nil:
		return false, fault.Wrap(err, fault.NotReady, "VirtualMachineServiceUnavailable",
			"it can't be told whether VirtualMachine %s is still there", key)
	}
	return means(owner, machine), nil
}

func means(owner *metav1.OwnerReference, machine *vmv1.VirtualMachine) bool {
	return owner.GetUid() == "" || owner.GetUid() == machine.GetMetadata().GetUid()
}
