package placement

import (
	"context"
	"sync"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/node"
	"orlop.dev/services/vm/internal/power"
)

// Survey finds the world as it is. It remembers what it read of VMs, so that one
// more look costs little.
type Survey struct {
	Nodes func(ctx context.Context) ([]node.Node, error)
	// Machines shows all VMs, placed or not, in the same order each time, and the
	// same pointer for as long as a VM is the same.
	Machines func(visit func(*vmv1.VirtualMachine)) error
	Class    func(name string) (*vmv1.VirtualMachineClass, bool)
	// Cluster is what else decides; nil where nobody tells.
	Cluster func(ctx context.Context) (*node.Cluster, error)
	Power   *power.Store

	mu   sync.Mutex
	seen sightings
}

// World is the nodes and the VMs that are placed on them, by their records: a
// place that is given counts at once.
func (s *Survey) World(ctx context.Context) (*World, error) {
	nodes, err := s.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	records, err := s.Power.All(ctx)
	if err != nil {
		return nil, err
	}
	cluster, err := s.cluster(ctx)
	if err != nil {
		return nil, err
	}
	guests, err := s.guests(records)
	if err != nil {
		return nil, err
	}
	return New(nodes, guests, cluster.Namespaces), nil
}

// guests are the VMs that are placed.
func (s *Survey) guests(records []*power.Record) ([]*Guest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	machines := make([]*vmv1.VirtualMachine, 0, len(s.seen.machines))
	if err := s.Machines(func(vm *vmv1.VirtualMachine) { machines = append(machines, vm) }); err != nil {
		return nil, err
	}
	s.seen.see(machines)
	s.seen.seeClasses(s.version)
	placed := s.seen.place(records)
	guests := make([]*Guest, 0, len(placed))
	for _, at := range placed {
		if at.guest == nil {
			at.guest = s.read(at)
		}
		guests = append(guests, at.guest)
		if m := at.record.Migration; m.Active() && m.Target != "" {
			// It has room on both nodes until one of them is free.
			there := *at.guest
			there.Node = m.Target
			guests = append(guests, &there)
		}
	}
	return guests, nil
}

// version tells one state of a class from another.
func (s *Survey) version(name string) string {
	class, _ := s.Class(name)
	return class.GetMetadata().GetUid() + class.GetMetadata().GetResourceVersion()
}

func (s *Survey) cluster(ctx context.Context) (*node.Cluster, error) {
	if s.Cluster == nil {
		return new(node.Cluster), nil
	}
	return s.Cluster(ctx)
}

// Priority is the value of a VM's PriorityClass, which decides who is first to
// look for room; nobody is turned off for another. Class NotReady for one that
// does not exist. Without a Kubernetes API there are no classes, and all VMs are
// alike.
func (s *Survey) Priority(ctx context.Context, spec *vmv1.VirtualMachineSpec) (int32, error) {
	cluster, err := s.cluster(ctx)
	if err != nil {
		return 0, err
	}
	name := spec.GetPriorityClassName()
	value, known := cluster.Priorities[name]
	switch {
	case name == "" || len(cluster.Priorities) == 0:
		return cluster.DefaultPriority, nil
	case !known:
		return 0, fault.New(fault.NotReady, "PodNotStarted", "no PriorityClass with name %s was found", name)
	}
	return value, nil
}

// Guest reads a VM, with the place and the size that its record gives it.
func (s *Survey) Guest(vm *vmv1.VirtualMachine, record *power.Record) (*Guest, error) {
	class, _ := s.Class(vm.GetSpec().GetVirtualMachineClassName())
	g, err := Read(vm, class)
	if err != nil {
		return nil, err
	}
	g.Node = record.Node
	g.Demand = node.Demand{MilliCPU: record.MilliCPU, MemoryBytes: record.MemoryBytes}
	return g, nil
}

// read reads a VM that runs. One whose rules can't be read, or that is not seen
// yet, takes its room all the same.
func (s *Survey) read(at *sighting) *Guest {
	s.seen.reads(at.vm.GetSpec().GetVirtualMachineClassName(), s.version)
	if g, err := s.Guest(at.vm, at.record); err == nil {
		return g
	}
	bare := &vmv1.VirtualMachine{Metadata: at.vm.GetMetadata()}
	g, _ := s.Guest(bare, at.record) // without rules there is nothing to misread
	return g
}
