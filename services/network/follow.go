package network

import (
	"context"
	"strings"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
)

// followMachines has the addresses looked at that go with a VM, and returns who
// tells whether one is there; nil without the VM service.
func (s *Service) followMachines(opts Options) (reconcile.Owners, error) {
	if opts.VirtualMachines == nil {
		return nil, nil
	}
	client, err := resource.NewClient[*vmv1.VirtualMachine](opts.VirtualMachines, kind.Must(&vmv1.VirtualMachine{}))
	if err != nil {
		return nil, err
	}
	s.machines = resource.NewMirror(client, resource.MirrorOptions[*vmv1.VirtualMachine]{
		Handler: s.machineChanged, Logger: opts.Logger,
	})
	return s.ownerIsThere, nil
}

func (s *Service) machineChanged(event resource.Event[*vmv1.VirtualMachine]) {
	if event.Type != resource.Deleted {
		return
	}
	gone := event.Object.GetMetadata()
	s.ips.ownerGone(gone.GetNamespace(), gone.GetUid())
	s.macs.ownerGone(gone.GetNamespace(), gone.GetUid())
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
