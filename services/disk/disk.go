// Package disk is the disk service: VirtualDisks and storage classes.
//
// It wires the rules (internal/virtualdisk) to the data (internal/layer), the
// store and the image service. It must not know VMs: who uses a disk says so by
// a claim.
package disk

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"orlop.dev/gen/crd"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
	"orlop.dev/kit/serve"
	"orlop.dev/services/disk/internal/export"
	"orlop.dev/services/disk/internal/freeze"
	"orlop.dev/services/disk/internal/imagevolume"
	"orlop.dev/services/disk/internal/jail"
	"orlop.dev/services/disk/internal/layer"
	"orlop.dev/services/disk/internal/origin"
	"orlop.dev/services/disk/internal/storageclass"
	"orlop.dev/services/disk/internal/tree"
	"orlop.dev/services/disk/internal/virtualdisk"
)

const (
	// DefaultPrefix is where the service's objects are in etcd.
	DefaultPrefix = "/orlop/disk"

	finalizer = "virtualization.deckhouse.io/vd-cleanup"
	workers   = 4
)

// Options say what the service works with.
type Options struct {
	Etcd   *clientv3.Client
	Prefix string
	// Images is a connection to the image service.
	Images grpc.ClientConnInterface
	// Snapshots is a connection to the snapshot service; without one no disk is made
	// from a snapshot.
	Snapshots grpc.ClientConnInterface
	// Dir is where volumes are kept; best on DVCR's file system.
	Dir string
	// DefaultStorageClass is for disks that name none; the cluster's default where
	// it is empty.
	DefaultStorageClass string
	// DefaultImageStorageClass is the same for images that are kept on a class.
	DefaultImageStorageClass string
	// Overcommit is how many times the free space of Dir's file system disks may
	// be promised; 0 is no limit.
	Overcommit float64
	// LayerDepth is how many files a disk may have before it is flattened in the
	// background; 0 means 8.
	LayerDepth int
	Logger     *slog.Logger
}

// Validate reports what is missing.
func (o Options) Validate() error {
	var problems []error
	if o.Etcd == nil {
		problems = append(problems, errors.New("option Etcd is required"))
	}
	if o.Images == nil {
		problems = append(problems, errors.New("option Images is required"))
	}
	if o.Dir == "" {
		problems = append(problems, errors.New("option Dir is required"))
	}
	if o.Overcommit < 0 {
		problems = append(problems, errors.New("option Overcommit must not be below 0"))
	}
	return errors.Join(problems...)
}

// Service is the disk service.
type Service struct {
	diskv1.UnimplementedVirtualDiskServiceServer

	disks   *resource.Collection[*diskv1.VirtualDisk]
	volumes *layer.Store
	keeper  *layer.Keeper
	trees   *tree.Service
	exports *export.Service
	shelf   *imagevolume.Service
	methods *resource.Methods[*diskv1.VirtualDisk]
	images  *virtualdisk.ImageMirrors
	imports *virtualdisk.ImportClient
	// Both are nil without a snapshot service.
	snapshots       *virtualdisk.SnapshotMirror
	snapshotExports *export.Service
	classes         *storageclass.Classes
	loop            *reconcile.Loop[*diskv1.VirtualDisk]
	leader          *reconcile.Election
	logger          *slog.Logger
}

// New wires the service. Nothing happens until its Part runs.
func New(opts Options) (*Service, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	if opts.Prefix == "" {
		opts.Prefix = DefaultPrefix
	}
	k := kind.Must(&diskv1.VirtualDisk{})
	rules, err := schema.Find(crd.FS, k)
	if err != nil {
		return nil, err
	}
	disks, err := resource.NewCollection[*diskv1.VirtualDisk](opts.Etcd, opts.Prefix, k, resource.Options{
		Finalizers: []string{finalizer}, Schema: rules, Logger: opts.Logger,
	})
	if err != nil {
		return nil, err
	}
	volumes, err := layer.Open(opts.Dir, opts.Logger)
	if err != nil {
		return nil, err
	}
	s := &Service{disks: disks, volumes: volumes, trees: &tree.Service{Disks: disks, Volumes: volumes}, logger: opts.Logger}
	s.keeper = &layer.Keeper{Store: volumes, Depth: opts.LayerDepth, Idle: s.idle, Logger: opts.Logger}
	s.classes = storageclass.New(storageclass.Options{
		Etcd: opts.Etcd, Prefix: opts.Prefix, Default: opts.DefaultStorageClass,
		DefaultForImages: opts.DefaultImageStorageClass, Changed: s.wakeAll,
	})
	s.imports = virtualdisk.NewImportClient(opts.Images, s.importChanged)
	if s.images, err = virtualdisk.NewImageMirrors(opts.Images, s.imageChanged); err != nil {
		return nil, err
	}
	reconciler := &virtualdisk.Reconciler{
		Volumes: volumes, Layers: volumes, Images: s.images, Imports: s.imports, Classes: s.classes, Now: time.Now,
		Origins: origin.NewStore(opts.Etcd, opts.Prefix), Space: volumes, Overcommit: opts.Overcommit,
	}
	if opts.Snapshots != nil {
		if s.snapshots, err = virtualdisk.NewSnapshotMirror(opts.Snapshots, s.imageChanged); err != nil {
			return nil, err
		}
		reconciler.Snapshots = s.snapshots
	}
	s.exports = export.OfDisks(disks, volumes, reconciler.AdmitHolder, export.Options{Logger: opts.Logger})
	if s.snapshots != nil {
		s.snapshotExports = export.OfSnapshots(s.snapshots, volumes, export.Options{Logger: opts.Logger})
	}
	shelf := imagevolume.Options{
		Etcd: opts.Etcd, Prefix: opts.Prefix, Volumes: volumes, Disks: disks, Classes: s.classes, Exports: s.exports,
		Admit: reconciler.AdmitHolder,
	}
	if s.snapshots != nil {
		shelf.Snapshots = s.snapshots
	}
	s.shelf = imagevolume.New(shelf)
	s.methods, err = resource.NewMethods(resource.MethodOptions[*diskv1.VirtualDisk]{
		Collection: disks, Schema: rules, Admit: reconciler.Admit,
		Holding: &resource.Holding[*diskv1.VirtualDisk]{Admit: reconciler.AdmitHolder, Answer: s.answer(reconciler)},
	})
	if err != nil {
		return nil, err
	}
	s.loop = reconcile.New(disks, reconciler, reconcile.Options{
		Name: "virtualdisk", Finalizer: finalizer, Workers: workers, Logger: opts.Logger,
	})
	s.leader = &reconcile.Election{
		Client: opts.Etcd, Key: opts.Prefix + "/election", Identity: "disk", Logger: opts.Logger,
	}
	return s, nil
}

// Part is the service as a piece of a process.
func (s *Service) Part() serve.Part {
	return serve.Part{Name: "disk", Register: s.register, Ready: s.disks.WaitSynced, Run: s.run}
}

func (s *Service) register(registrar grpc.ServiceRegistrar) error {
	diskv1.RegisterStorageClassServiceServer(registrar, s.classes)
	diskv1.RegisterDiskLayerServiceServer(registrar, s.trees)
	diskv1.RegisterDiskExportServiceServer(registrar, s.exports)
	if s.snapshotExports != nil {
		diskv1.RegisterSnapshotExportServiceServer(registrar, s.snapshotExports)
	}
	diskv1.RegisterImageVolumeServiceServer(registrar, s.shelf)
	diskv1.RegisterDiskFreezeServiceServer(registrar, &freeze.Service{Disks: s.disks, Volumes: s.volumes})
	return resource.Register(registrar, &diskv1.VirtualDiskService_ServiceDesc, s, s.methods)
}

func (s *Service) run(ctx context.Context) error {
	if err := jail.Check(ctx); err != nil && ctx.Err() == nil {
		s.logger.WarnContext(ctx, "QEMU's tools see this machine's network: it allows them no namespaces of their own", "error", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.disks.Run(ctx) })
	group.Go(func() error { return s.images.Run(ctx) })
	group.Go(func() error { return s.imports.Run(ctx) })
	if s.snapshots != nil {
		group.Go(func() error { return s.snapshots.Run(ctx) })
		group.Go(func() error { return s.snapshotExports.Run(ctx) })
	}
	group.Go(func() error { return s.exports.Run(ctx) })
	group.Go(func() error { return s.leader.Run(ctx, s.lead) })
	return group.Wait()
}

// answer is the reconciler's, and wakes the disk: a holder that made the volume
// larger says so by a claim that changes nothing.
func (s *Service) answer(r *virtualdisk.Reconciler) func(context.Context, *diskv1.VirtualDisk, *metav1.Holder) (proto.Message, error) {
	return func(ctx context.Context, disk *diskv1.VirtualDisk, holder *metav1.Holder) (proto.Message, error) {
		if holder.GetActive() {
			s.loop.Trigger(resource.KeyOf(disk))
			// The holder opens the file next.
			if err := s.volumes.Interrupt(ctx, disk.GetMetadata().GetUid()); err != nil {
				return nil, err
			}
		}
		return r.Answer(ctx, disk, holder)
	}
}

// lead is what one instance does for all.
func (s *Service) lead(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.loop.Run(ctx) })
	group.Go(func() error { return s.keeper.Run(ctx) })
	return group.Wait()
}

// idle reports whether nobody uses the disk with that UID.
func (s *Service) idle(uid string) bool {
	disks, err := s.disks.All("", nil)
	if err != nil {
		return false
	}
	at := slices.IndexFunc(disks, func(d *diskv1.VirtualDisk) bool { return d.GetMetadata().GetUid() == uid })
	return at >= 0 && !resource.Held(disks[at])
}

// wakeAll wakes every disk.
func (s *Service) wakeAll() {
	s.wake("", func(*diskv1.VirtualDisk) bool { return true })
}

// wake wakes the disks of a namespace (empty: all) that are concerned.
func (s *Service) wake(namespace string, concerned func(*diskv1.VirtualDisk) bool) {
	disks, err := s.disks.All(namespace, nil)
	if err != nil {
		return // the copy is not there yet; the loop will see every disk anyway
	}
	for _, disk := range disks {
		if concerned(disk) {
			s.loop.Trigger(resource.KeyOf(disk))
		}
	}
}

// importChanged wakes the disk that a file is imported for; all that may have
// such a one where owner is nil.
func (s *Service) importChanged(owner *metav1.Holder) {
	if owner != nil {
		s.loop.Trigger(resource.Key{Namespace: owner.GetNamespace(), Name: owner.GetName()})
		return
	}
	s.wake("", func(disk *diskv1.VirtualDisk) bool {
		source := disk.GetSpec().GetDataSource()
		return source != nil && source.GetType() != imagev1.DataSourceType_ObjectRef
	})
}

// imageChanged wakes the disks that are made from an image.
func (s *Service) imageChanged(image *diskv1.DiskObjectRef, namespace string) {
	s.wake(namespace, func(disk *diskv1.VirtualDisk) bool {
		ref := disk.GetSpec().GetDataSource().GetObjectRef()
		return ref.GetKind() == image.GetKind() && ref.GetName() == image.GetName()
	})
}
