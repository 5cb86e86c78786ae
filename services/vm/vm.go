// Package vm is the vm service: virtual machines, their classes, operations and
// attached devices, and the nodes where they run.
//
// It wires the rules (internal/machine, attachment, class, operation) to the engine that
// runs guests, the store, and the services whose objects a VM uses.
package vm

import (
	"context"
	"errors"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"orlop.dev/gen/crd"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
	"orlop.dev/services/vm/internal/attachment"
	"orlop.dev/services/vm/internal/class"
	"orlop.dev/services/vm/internal/local"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/migration"
	"orlop.dev/services/vm/internal/node"
	"orlop.dev/services/vm/internal/operation"
	"orlop.dev/services/vm/internal/peer"
	"orlop.dev/services/vm/internal/placement"
	"orlop.dev/services/vm/internal/power"
	"orlop.dev/services/vm/internal/qemu"
	"orlop.dev/services/vm/internal/quiesce"
	"orlop.dev/services/vm/internal/relocation"
)

const (
	// DefaultPrefix is where the service's objects are in etcd.
	DefaultPrefix = "/orlop/vm"

	machineFinalizer   = "virtualization.deckhouse.io/vm-cleanup"
	classFinalizer     = "virtualization.deckhouse.io/vmclass-cleanup"
	operationFinalizer = "virtualization.deckhouse.io/vmop-cleanup"

	attachmentFinalizer = "virtualization.deckhouse.io/vmbda-cleanup"

	machineWorkers = 4
)

// Options say what the service works with.
type Options struct {
	Etcd   *clientv3.Client
	Prefix string
	// Connections to the services whose objects VMs use.
	Disks, Images, Networks grpc.ClientConnInterface
	// Secrets reaches the SecretService, which has what guests are set up from; nil
	// where there is no Kubernetes API.
	Secrets grpc.ClientConnInterface
	// Pods reaches the PodService, by which Kubernetes counts VMs before they run;
	// nil where nothing does.
	Pods grpc.ClientConnInterface
	// Snapshots reaches the snapshot service, which restores and clones VMs; nil
	// where there is none.
	Snapshots grpc.ClientConnInterface
	// Dir holds what belongs to running guests.
	Dir string
	// DiskRoots are the folders in which disks have their backing files.
	DiskRoots []string
	// Nodes are the names of the simulated nodes, NodeAddress what guests reach all
	// of them by; empty where they don't.
	Nodes       []string
	NodeAddress string
	// MilliCPU and MemoryBytes are what all nodes together have for VMs.
	MilliCPU, MemoryBytes int64
	// QEMU is the emulator's binary; qemu.DefaultBinary where it is empty.
	QEMU string
	// KeepOldQEMU leaves VMs that an older QEMU runs where they are; else they are
	// moved into a newer one.
	KeepOldQEMU bool
	// RebalanceEvery is how often the load of the nodes is evened out; 0 is never.
	RebalanceEvery time.Duration
	Migration      Migration
	Logger         *slog.Logger
}

// Migration bounds live migrations: what is zero is as the platform has it.
type Migration = migration.Settings

// Validate reports what is missing.
func (o Options) Validate() error {
	var problems []error
	if o.Etcd == nil {
		problems = append(problems, errors.New("option Etcd is required"))
	}
	if o.Disks == nil || o.Images == nil || o.Networks == nil {
		problems = append(problems, errors.New("options Disks, Images and Networks are required"))
	}
	if o.Dir == "" {
		problems = append(problems, errors.New("option Dir is required"))
	}
	if len(o.Nodes) == 0 || o.MilliCPU <= 0 || o.MemoryBytes <= 0 {
		problems = append(problems, errors.New("options Nodes, MilliCPU and MemoryBytes are required"))
	}
	return errors.Join(problems...)
}

// Service is the vm service.
type Service struct {
	vmv1.UnimplementedVirtualMachineServiceServer
	vmv1.UnimplementedNodeServiceServer

	host        qemu.Host
	nodes       *node.Pool
	survey      *placement.Survey
	mover       *relocation.Mover
	room        room
	engine      *local.Engine
	devices     *peer.Devices
	addresses   *peer.Addresses[*networkv1.VirtualMachineIPAddress]
	macs        *peer.Addresses[*networkv1.VirtualMachineMACAddress]
	secrets     *peer.Secrets // nil where there are none
	pods        *peer.Pods    // nil where nothing counts VMs
	leader      *reconcile.Election
	rules       *machine.Reconciler
	every       time.Duration
	logger      *slog.Logger
	nodeAddress string
	quiesce     *quiesce.Service

	machines   *kept[*vmv1.VirtualMachine]
	classes    *kept[*vmv1.VirtualMachineClass]
	operations *kept[*vmv1.VirtualMachineOperation]

	attachments *kept[*vmv1.VirtualMachineBlockDeviceAttachment]
}

// New looks at the machine's QEMU and wires the service. It takes some tenths
// of a second, up to ten seconds on a busy machine.
func New(ctx context.Context, opts Options) (*Service, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.Prefix == "" {
		opts.Prefix = DefaultPrefix
	}
	if opts.QEMU == "" {
		opts.QEMU = qemu.DefaultBinary
	}
	host, err := qemu.Probe(ctx, opts.QEMU)
	if err != nil {
		return nil, err
	}
	s := &Service{
		host: host, nodeAddress: opts.NodeAddress, every: opts.RebalanceEvery, logger: opts.Logger,
		nodes: node.NewPool(opts.Etcd, opts.Prefix,
			node.Simulate(opts.Nodes, node.Demand{MilliCPU: opts.MilliCPU, MemoryBytes: opts.MemoryBytes})),
		leader: &reconcile.Election{
			Client: opts.Etcd, Key: opts.Prefix + "/election", Identity: "vm", Logger: opts.Logger,
		},
	}
	if s.engine, err = local.New(local.Options{
		Dir: opts.Dir, DiskRoots: opts.DiskRoots, Host: host, Changed: s.instanceChanged, Logger: opts.Logger,
	}); err != nil {
		return nil, err
	}
	if s.devices, err = peer.NewDevices(opts.Disks, opts.Images, s.deviceChanged); err != nil {
		return nil, err
	}
	if s.addresses, err = peer.NewAddresses(opts.Networks, s.addressChanged); err != nil {
		return nil, err
	}
	if s.macs, err = peer.NewMACs(opts.Networks, s.macChanged); err != nil {
		return nil, err
	}
	s.quiesce = quiesce.New(quiesce.Options{
		Etcd: opts.Etcd, Prefix: opts.Prefix, Engine: s.engine, Machine: s.Machine, Exists: s.exists,
		Ready: func(ctx context.Context) error { return s.machines.WaitSynced(ctx) }, Device: diskDevice,
		Now: time.Now, Logger: opts.Logger,
	})
	if opts.Secrets != nil {
		s.secrets = peer.NewSecrets(opts.Secrets, s.secretChanged)
	}
	return s, s.keep(opts)
}

// keep makes the collections of the service's kinds with their rules and loops.
func (s *Service) keep(opts Options) error {
	records := power.NewStore(opts.Etcd, opts.Prefix)
	processor := processorOf(s.host)
	s.survey = &placement.Survey{
		Nodes: s.nodes.All, Machines: func(visit func(*vmv1.VirtualMachine)) error { return s.machines.Each("", visit) }, Class: s.Class, Cluster: s.nodes.Cluster, Power: records,
	}
	s.mover = &relocation.Mover{Operations: s.allOperations, Create: s.createOperation, Now: time.Now, CopyDisks: opts.Migration.CopyDisks}
	s.rules = &machine.Reconciler{
		Classes: s, Devices: s.devices, Allocator: peer.NewAllocator(opts.Networks), Addresses: s.addresses, MACs: s.macs, Engine: s.engine,
		Rest: s.quiesce, NonVolatile: s.engine, Processor: processor, Overhead: local.Overhead(s.host),
		Attachments: s, Power: records, Survey: s.survey, Relocations: s.mover,
		KeepOldQEMU: opts.KeepOldQEMU, Now: time.Now, Migrations: s.engine, Migration: opts.Migration.OrDefaults(),
	}
	if s.secrets != nil {
		s.rules.Secrets = s.secrets
	}
	if opts.Pods != nil {
		s.pods = peer.NewPods(opts.Pods, s.podsAllowed)
		s.rules.Pods = s.pods
	}
	attachments := &attachment.Reconciler{
		Machines: s, Devices: s.devices, Engine: s.engine, Power: records, All: s.allAttachments, Now: time.Now,
	}
	classes := &class.Reconciler{Nodes: s.nodes.All, Processor: processor, All: s.allClasses, InUse: s.classUsers, Now: time.Now}
	operations := &operation.Reconciler{
		Machines: s, Power: records, Others: s.allOperations, Delete: s.deleteOperation, Migrations: s.engine, Now: time.Now,
	}
	var err error
	if opts.Snapshots != nil {
		if operations.Snapshots, err = peer.NewSnapshots(opts.Snapshots); err != nil {
			return err
		}
	}
	if s.machines, err = newKept(opts, keptOptions[*vmv1.VirtualMachine]{
		reconciler: s.rules, fill: s.fillIn, admit: s.rules.Admit, finalizer: machineFinalizer, workers: machineWorkers,
	}); err != nil {
		return err
	}
	if s.classes, err = newKept(opts, keptOptions[*vmv1.VirtualMachineClass]{
		reconciler: classes, admit: classes.Admit, finalizer: classFinalizer, workers: 1,
	}); err != nil {
		return err
	}
	if s.attachments, err = newKept(opts, keptOptions[*vmv1.VirtualMachineBlockDeviceAttachment]{
		reconciler: attachments, admit: attachments.Admit, finalizer: attachmentFinalizer, workers: 2,
	}); err != nil {
		return err
	}
	s.operations, err = newKept(opts, keptOptions[*vmv1.VirtualMachineOperation]{
		reconciler: operations, finalizer: operationFinalizer, workers: 2,
	})
	return err
}

// kept is one kind that the service keeps: its objects, methods and loop.
type kept[T resource.Object] struct {
	*resource.Collection[T]
	methods *resource.Methods[T]
	loop    *reconcile.Loop[T]
}

type keptOptions[T resource.Object] struct {
	reconciler reconcile.Reconciler[T]
	fill       func(ctx context.Context, old, new T) error
	admit      func(ctx context.Context, old, new T) error
	finalizer  string
	workers    int
}

func newKept[T resource.Object](opts Options, own keptOptions[T]) (*kept[T], error) {
	var none T
	k := kind.Must(none)
	rules, err := schema.Find(crd.FS, k)
	if err != nil {
		return nil, err
	}
	collection, err := resource.NewCollection[T](opts.Etcd, opts.Prefix, k, resource.Options{
		Finalizers: []string{own.finalizer}, Schema: rules, Logger: opts.Logger,
	})
	if err != nil {
		return nil, err
	}
	methods, err := resource.NewMethods(resource.MethodOptions[T]{
		Collection: collection, Schema: rules, Default: own.fill, Admit: own.admit,
	})
	if err != nil {
		return nil, err
	}
	loop := reconcile.New(collection, own.reconciler, reconcile.Options{
		Name: k.Singular, Finalizer: own.finalizer, Workers: own.workers, Logger: opts.Logger,
	})
	return &kept[T]{Collection: collection, methods: methods, loop: loop}, nil
}
