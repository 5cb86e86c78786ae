// Package snapshot is the snapshot service: snapshots of disks and of VMs, and
// what is made again from them.
//
// It wires the rules (internal/disksnapshot) to the other services, which freeze
// disks and guests for it, and to the store. It must not know how either is done.
package snapshot

import (
	"context"
	"errors"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"orlop.dev/gen/crd"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
	"orlop.dev/kit/serve"
	"orlop.dev/services/snapshot/internal/capture"
	"orlop.dev/services/snapshot/internal/class"
	"orlop.dev/services/snapshot/internal/disksnapshot"
	"orlop.dev/services/snapshot/internal/machinesnapshot"
	"orlop.dev/services/snapshot/internal/peer"
	"orlop.dev/services/snapshot/internal/rebuild"
	"orlop.dev/services/snapshot/internal/recipe"
	"orlop.dev/services/snapshot/internal/restore"
	"orlop.dev/services/snapshot/internal/snapshotoperation"
)

const (
	// DefaultPrefix is where the service's objects are in etcd.
	DefaultPrefix = "/orlop/snapshot"

	diskFinalizer    = "virtualization.deckhouse.io/vdsnapshot-cleanup"
	machineFinalizer = "virtualization.deckhouse.io/vmsnapshot-cleanup"
	restoreFinalizer = "virtualization.deckhouse.io/vmrestore-cleanup"

	operationFinalizer = "virtualization.deckhouse.io/vmsop-cleanup"
)

// Options say what the service works with.
type Options struct {
	Etcd   *clientv3.Client
	Prefix string
	// Connections to the services whose objects are taken.
	Disks, Machines, Networks grpc.ClientConnInterface
	// Images leads to the image service, which knows whether images are there; nil
	// where none is asked.
	Images grpc.ClientConnInterface
	// Secrets leads to the port to Kubernetes Secrets; nil where there is none.
	Secrets grpc.ClientConnInterface
	// ClassAliases are further names of the one VolumeSnapshotClass.
	ClassAliases []string
	Logger       *slog.Logger
}

// Validate reports what is missing.
func (o Options) Validate() error {
	var problems []error
	if o.Etcd == nil {
		problems = append(problems, errors.New("option Etcd is required"))
	}
	if o.Disks == nil || o.Machines == nil || o.Networks == nil {
		problems = append(problems, errors.New("options Disks, Machines and Networks are required"))
	}
	return errors.Join(problems...)
}

// Service is the snapshot service.
type Service struct {
	classes *class.Classes
	objects *peer.Objects
	leader  *reconcile.Election

	disks    *kept[*snapshotv1.VirtualDiskSnapshot]
	machines *kept[*snapshotv1.VirtualMachineSnapshot]
	restores *kept[*snapshotv1.VirtualMachineRestore]

	operations *kept[*snapshotv1.VirtualMachineSnapshotOperation]
}

// New wires the service. Nothing happens until its Part runs.
func New(opts Options) (*Service, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.Prefix == "" {
		opts.Prefix = DefaultPrefix
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	s := &Service{
		classes: &class.Classes{Aliases: opts.ClassAliases},
		leader: &reconcile.Election{
			Client: opts.Etcd, Key: opts.Prefix + "/election", Identity: "snapshot", Logger: opts.Logger,
		},
	}
	var err error
	s.objects, err = peer.New(peer.Connections{
		Disks: opts.Disks, Images: opts.Images, Machines: opts.Machines, Networks: opts.Networks, Secrets: opts.Secrets,
	}, s.changed)
	if err != nil {
		return nil, err
	}
	return s, s.keep(opts)
}

// keep makes the collections of the service's kinds with their rules and loops.
func (s *Service) keep(opts Options) error {
	capturer := capture.New(opts.Etcd, opts.Prefix,
		diskv1.NewDiskFreezeServiceClient(opts.Disks), vmv1.NewGuestDiskServiceClient(opts.Machines))
	disks := &disksnapshot.Reconciler{
		Objects: s.objects, Capturer: capturer, Classes: s.classes, Begun: capturer.Begun, Now: time.Now,
	}
	recipes := recipe.NewStore(opts.Etcd, opts.Prefix)
	machines := &machinesnapshot.Reconciler{
		Objects: s.objects, Capturer: capturer, Children: s, Classes: s.classes, Recipes: recipes, Now: time.Now,
	}
	engine := &rebuild.Engine{
		Objects: s.objects, Maker: s.objects, Snapshots: s, Recipes: recipes, Records: rebuild.NewStore(opts.Etcd, opts.Prefix),
	}
	var err error
	if s.disks, err = newKept(opts, keptOptions[*snapshotv1.VirtualDiskSnapshot]{
		reconciler: s.cascade(disks), admit: disks.Admit, finalizer: diskFinalizer,
		holding: &resource.Holding[*snapshotv1.VirtualDiskSnapshot]{Admit: disks.AdmitHolder, Answer: disks.Answer},
	}); err != nil {
		return err
	}
	if s.machines, err = newKept(opts, keptOptions[*snapshotv1.VirtualMachineSnapshot]{
		reconciler: machines, admit: machines.Admit, finalizer: machineFinalizer,
	}); err != nil {
		return err
	}
	if s.restores, err = newKept(opts, keptOptions[*snapshotv1.VirtualMachineRestore]{
		reconciler: &restore.Reconciler{Engine: engine, Now: time.Now}, finalizer: restoreFinalizer,
	}); err != nil {
		return err
	}
	s.operations, err = newKept(opts, keptOptions[*snapshotv1.VirtualMachineSnapshotOperation]{
		reconciler: &snapshotoperation.Reconciler{Engine: engine, Now: time.Now}, finalizer: operationFinalizer,
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
	admit      func(ctx context.Context, old, new T) error
	holding    *resource.Holding[T]
	finalizer  string
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
		Collection: collection, Schema: rules, Admit: own.admit, Holding: own.holding,
	})
	if err != nil {
		return nil, err
	}
	loop := reconcile.New(collection, own.reconciler, reconcile.Options{
		Name: k.Singular, Finalizer: own.finalizer, Logger: opts.Logger,
	})
	return &kept[T]{Collection: collection, methods: methods, loop: loop}, nil
}

// Part is the service as a piece of a process.
func (s *Service) Part() serve.Part {
	return serve.Part{Name: "snapshot", Register: s.register, Ready: s.ready, Run: s.run}
}

func (s *Service) register(registrar grpc.ServiceRegistrar) error {
	snapshotv1.RegisterVolumeSnapshotClassServiceServer(registrar, s.classes)
	return errors.Join(
		resource.Register(registrar, &snapshotv1.VirtualDiskSnapshotService_ServiceDesc, nil, s.disks.methods),
		resource.Register(registrar, &snapshotv1.VirtualMachineSnapshotService_ServiceDesc, nil, s.machines.methods),
		resource.Register(registrar, &snapshotv1.VirtualMachineRestoreService_ServiceDesc, nil, s.restores.methods),
		resource.Register(registrar, &snapshotv1.VirtualMachineSnapshotOperationService_ServiceDesc, nil, s.operations.methods),
	)
}

func (s *Service) ready(ctx context.Context) error {
	return errors.Join(s.disks.WaitSynced(ctx), s.machines.WaitSynced(ctx), s.restores.WaitSynced(ctx), s.operations.WaitSynced(ctx))
}

func (s *Service) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{
		s.disks.Run, s.machines.Run, s.restores.Run, s.operations.Run, s.objects.Run,
	} {
		group.Go(func() error { return run(ctx) })
	}
	group.Go(func() error { return s.leader.Run(ctx, s.lead) })
	return group.Wait()
}

// lead is what one replica does at a time, once it is known what there is: a disk
// that merely is not seen yet must not be told to be missing.
func (s *Service) lead(ctx context.Context) error {
	if err := errors.Join(s.ready(ctx), s.objects.WaitSynced(ctx)); err != nil {
		return nil //nolint:nilerr // The lead ended before it began.
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.disks.loop.Run(ctx) })
	group.Go(func() error { return s.machines.loop.Run(ctx) })
	group.Go(func() error { return s.restores.loop.Run(ctx) })
	group.Go(func() error { return s.operations.loop.Run(ctx) })
	group.Go(func() error { return s.follow(ctx) })
	return group.Wait()
}
