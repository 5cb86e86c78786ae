// Package image is the image service: VirtualImages and ClusterVirtualImages.
//
// It wires the rules (internal/virtualimage) to the imports (internal/job), the
// registry of disk images, DVCR, (internal/dvcr) and the store. It must not know
// VMs: who uses an image says so by a claim.
package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"orlop.dev/gen/crd"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
	"orlop.dev/kit/serve"
	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/diskservice"
	"orlop.dev/services/image/internal/importserver"
	"orlop.dev/services/image/internal/intake"
	"orlop.dev/services/image/internal/job"
	"orlop.dev/services/image/internal/pullsecret"
	"orlop.dev/services/image/internal/upload"
	"orlop.dev/services/image/internal/virtualimage"
)

const (
	imageFinalizer        = "virtualization.deckhouse.io/vi-cleanup"
	clusterImageFinalizer = "virtualization.deckhouse.io/cvi-cleanup"
)

// Service is the image service.
type Service struct {
	images        *kept[*imagev1.VirtualImage]
	clusterImages *kept[*imagev1.ClusterVirtualImage]
	jobs          *job.Pool
	uploads       *upload.Store
	imports       *importserver.Server
	disks         *diskservice.Client // nil where there is none
	leader        *reconcile.Election
}

// New wires the service. Nothing happens until its Part runs.
func New(opts Options) (*Service, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	client, err := opts.open()
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	s := &Service{leader: &reconcile.Election{
		Client: opts.Etcd, Key: opts.Prefix + "/election", Identity: fmt.Sprintf("%s/%d", host, os.Getpid()), Logger: opts.Logger,
	}}
	if s.jobs, err = job.New(job.Options{
		Registry: client, StagingDir: opts.StagingDir, Parallel: opts.Imports,
		Limits:  diskimage.Limits{VirtualBytes: opts.Limits.MaxVirtualBytes},
		Initial: opts.pace.initial, Max: opts.pace.max, ChunkBytes: opts.pace.chunkBytes,
		Logger: opts.Logger,
	}); err != nil {
		return nil, err
	}
	origins := &virtualimage.Origins{Outside: intake.Sources{
		AllowPrivate: opts.AllowSources, Retry: opts.pace.retry,
		Secrets: pullsecret.New(opts.Secrets), MaxBytes: opts.Limits.MaxVirtualBytes,
	}}
	way := &intake.Intake{
		Imports: s.jobs, Origins: origins,
		Registry: intake.Registry{
			Registry: client, Host: opts.Registry.Endpoint, Prefix: opts.Registry.Prefix, BlobPath: opts.BlobPath,
		},
	}
	if s.uploads, err = newUploads(opts); err != nil {
		return nil, err
	}
	if opts.Uploads.URL != "" {
		way.Uploads, way.Door = s.uploads, opts.Uploads.door()
	}
	if s.images, err = newKept(opts, virtualimage.Namespaced(), way, imageFinalizer); err != nil {
		return nil, err
	}
	if s.clusterImages, err = newKept(opts, virtualimage.Cluster(), way, clusterImageFinalizer); err != nil {
		return nil, err
	}
	origins.Images, origins.ClusterImages = s.images.rules.Origin, s.clusterImages.rules.Origin
	if err := s.connect(opts.Disks, opts.Snapshots, origins); err != nil {
		return nil, err
	}
	s.imports = importserver.New(way, opts.Logger)
	return s, nil
}

// connect has images made from disks and snapshots, and kept by the disk service,
// where there is one.
func (s *Service) connect(disks, snapshots grpc.ClientConnInterface, origins *virtualimage.Origins) (err error) {
	if disks == nil {
		return nil
	}
	if s.disks, err = diskservice.New(disks, snapshots, s.originChanged); err != nil {
		return err
	}
	origins.Disks, s.images.rules.Disks, s.clusterImages.rules.Disks = s.disks, s.disks, s.disks
	return nil
}

// originChanged wakes the images that wait for a disk or a snapshot, or hold it.
func (s *Service) originChanged(origin resource.Object) {
	for _, holder := range diskservice.Holders(origin) {
		key := resource.Key{Namespace: holder.GetNamespace(), Name: holder.GetName()}
		if key.Namespace == "" {
			s.clusterImages.loop.Trigger(key)
		} else {
			s.images.loop.Trigger(key)
		}
	}
	s.wake(imagev1.ObjectRefKind_Value(imagev1.ObjectRefKind_Value_value[origin.GetKind()]), resource.KeyOf(origin))
}

// exists reports whether a holder of an origin is an image that there is, or may be.
func (s *Service) exists(holder *metav1.Holder) bool {
	if holder.GetNamespace() == "" {
		return s.clusterImages.has(holder)
	}
	return s.images.has(holder)
}

// kept is one kind that the service keeps: its objects, methods and loop.
type kept[T resource.Object] struct {
	*resource.Collection[T]
	rules   *virtualimage.Reconciler[T]
	methods *resource.Methods[T]
	loop    *reconcile.Loop[T]
}

// wake has those images looked at that are made from another one, which turned.
func (k *kept[T]) wake(kind imagev1.ObjectRefKind_Value, of resource.Key) {
	waiting, err := k.rules.Dependents(kind, of)
	if err != nil {
		return // they are all looked at when the copy is complete
	}
	for _, key := range waiting {
		k.loop.Trigger(key)
	}
}

// has reports whether a holder is an image of the kind; true where that can't be
// told.
func (k *kept[T]) has(holder *metav1.Holder) bool {
	image, err := k.Get(resource.Key{Namespace: holder.GetNamespace(), Name: holder.GetName()})
	if err != nil {
		return !fault.Is(err, fault.NotFound)
	}
	return image.GetMetadata().GetUid() == holder.GetUid()
}

func newKept[T resource.Object](opts Options, images virtualimage.Kind[T], way *intake.Intake, finalizer string) (*kept[T], error) {
	var none T
	k := kind.Must(none)
	rules, err := schema.Find(crd.FS, k)
	if err != nil {
		return nil, err
	}
	collection, err := resource.NewCollection[T](opts.Etcd, opts.Prefix, k, resource.Options{
		Finalizers: []string{finalizer}, Schema: rules, Logger: opts.Logger,
	})
	if err != nil {
		return nil, err
	}
	own := &kept[T]{Collection: collection}
	own.rules = &virtualimage.Reconciler[T]{
		Kind: images, Images: collection, Intake: way, Now: time.Now,
		Changed: func(key resource.Key) { own.loop.Trigger(key) },
	}
	own.methods, err = resource.NewMethods(resource.MethodOptions[T]{
		Collection: collection, Schema: rules, Admit: own.rules.Admit, Holding: own.rules.Holding(),
	})
	if err != nil {
		return nil, err
	}
	own.loop = reconcile.New(collection, own.rules, reconcile.Options{
		Name: k.Singular, Finalizer: finalizer, Logger: opts.Logger,
	})
	return own, nil
}

// Part is the service as a piece of a process.
func (s *Service) Part() serve.Part {
	return serve.Part{Name: "image", Register: s.register, Ready: s.ready, Run: s.run}
}

func (s *Service) register(registrar grpc.ServiceRegistrar) error {
	imagev1.RegisterUploadServiceServer(registrar, upload.NewServer(s.uploads))
	imagev1.RegisterImportServiceServer(registrar, s.imports)
	return errors.Join(
		resource.Register(registrar, &imagev1.VirtualImageService_ServiceDesc, nil, s.images.methods),
		resource.Register(registrar, &imagev1.ClusterVirtualImageService_ServiceDesc, nil, s.clusterImages.methods),
	)
}

func (s *Service) ready(ctx context.Context) error {
	return errors.Join(s.images.WaitSynced(ctx), s.clusterImages.WaitSynced(ctx))
}

func (s *Service) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.images.Run(ctx) })
	group.Go(func() error { return s.clusterImages.Run(ctx) })
	group.Go(func() error { return s.leader.Run(ctx, s.lead) })
	return group.Wait()
}

// lead is what one replica does at a time. Imports end with it, and so do uploads,
// which it keeps on its own disk.
func (s *Service) lead(ctx context.Context) error {
	if err := s.uploads.Open(); err != nil {
		return err
	}
	defer s.uploads.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.jobs.Run(ctx) })
	group.Go(func() error { return s.uploads.Run(ctx) })
	group.Go(func() error { return s.imports.Run(ctx) })
	if s.disks != nil {
		group.Go(func() error { return s.disks.Run(ctx, s.exists) })
	}
	group.Go(func() error { return s.images.loop.Run(ctx) })
	group.Go(func() error { return s.clusterImages.loop.Run(ctx) })
	group.Go(func() error { return s.images.rules.Follow(ctx, s.wake) })
	group.Go(func() error { return s.clusterImages.rules.Follow(ctx, s.wake) })
	return group.Wait()
}

func (s *Service) wake(kind imagev1.ObjectRefKind_Value, of resource.Key) {
	s.images.wake(kind, of)
	s.clusterImages.wake(kind, of)
}
