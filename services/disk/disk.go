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
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"orlop.dev/gen/crd"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
	"orlop.dev/kit/serve"
	"orlop.dev/services/disk/internal/layer"
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
	// Dir is where volumes are kept; best on DVCR's file system.
	Dir    string
	Logger *slog.Logger
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
	return errors.Join(problems...)
}

// Service is the disk service.
type Service struct {
	diskv1.UnimplementedVirtualDiskServiceServer
	diskv1.UnimplementedStorageClassServiceServer

	disks   *resource.Collection[*diskv1.VirtualDisk]
	methods *resource.Methods[*diskv1.VirtualDisk]
	images  *virtualdisk.ImageMirrors
	classes virtualdisk.Classes
	loop    *reconcile.Loop[*diskv1.VirtualDisk]
	leader  *reconcile.Election
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
	s := &Service{disks: disks, classes: virtualdisk.LocalClasses()}
	if s.images, err = virtualdisk.NewImageMirrors(opts.Images, s.imageChanged); err != nil {
		return nil, err
	}
	reconciler := &virtualdisk.Reconciler{Volumes: volumes, Images: s.images, Classes: s.classes, Now: time.Now}
	s.methods, err = resource.NewMethods(resource.MethodOptions[*diskv1.VirtualDisk]{
		Collection: disks, Schema: rules, Admit: reconciler.Admit,
		Holding: &resource.Holding[*diskv1.VirtualDisk]{Admit: reconciler.AdmitHolder, Answer: reconciler.Answer},
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
	diskv1.RegisterStorageClassServiceServer(registrar, s)
	return resource.Register(registrar, &diskv1.VirtualDiskService_ServiceDesc, s, s.methods)
}

func (s *Service) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.disks.Run(ctx) })
	group.Go(func() error { return s.images.Run(ctx) })
	group.Go(func() error { return s.leader.Run(ctx, s.loop.Run) })
	return group.Wait()
}

// ListStorageClasses implements diskv1.StorageClassServiceServer.
func (s *Service) ListStorageClasses(context.Context, *diskv1.ListStorageClassesRequest) (*diskv1.ListStorageClassesResponse, error) {
	return &diskv1.ListStorageClassesResponse{Items: s.classes}, nil
}

// imageChanged wakes the disks that are made from an image.
func (s *Service) imageChanged(image *diskv1.DiskObjectRef, namespace string) {
	disks, err := s.disks.All(namespace, nil)
	if err != nil {
		return // the copy is not there yet; the loop will see every disk anyway
	}
	for _, disk := range disks {
		ref := disk.GetSpec().GetDataSource().GetObjectRef()
		if ref.GetKind() == image.GetKind() && ref.GetName() == image.GetName() {
			s.loop.Trigger(resource.KeyOf(disk))
		}
	}
}
