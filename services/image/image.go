// Package image is the image service: VirtualImages and ClusterVirtualImages.
//
// It wires the rules (internal/virtualimage) to the imports (internal/job), the
// registry of disk images, DVCR, (internal/dvcr) and the store. It must not know
// disks or VMs: who uses an image says so by a claim.
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
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
	"orlop.dev/kit/serve"
	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/job"
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
	imports       *job.Pool
	leader        *reconcile.Election
}

// New wires the service. Nothing happens until its Part runs.
func New(opts Options) (*Service, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	client, err := opts.Registry.open(opts.StagingDir)
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
	if s.imports, err = job.New(job.Options{
		Registry: client, StagingDir: opts.StagingDir, Parallel: opts.Imports,
		Limits: diskimage.Limits{VirtualBytes: opts.Limits.MaxVirtualBytes}, AllowPrivate: opts.AllowSources,
		Initial: opts.pace.initial, Max: opts.pace.max, Retry: opts.pace.retry, ChunkBytes: opts.pace.chunkBytes,
		Logger: opts.Logger,
	}); err != nil {
		return nil, err
	}
	registry := virtualimage.Registry{Registry: client, Host: opts.Registry.Endpoint, Prefix: opts.Registry.Prefix}
	if s.images, err = newKept(opts, virtualimage.Namespaced(), s.imports, registry, imageFinalizer); err != nil {
		return nil, err
	}
	s.clusterImages, err = newKept(opts, virtualimage.Cluster(), s.imports, registry, clusterImageFinalizer)
	return s, err
}

// kept is one kind that the service keeps: its objects, methods and loop.
type kept[T resource.Object] struct {
	*resource.Collection[T]
	methods *resource.Methods[T]
	loop    *reconcile.Loop[T]
}

func newKept[T resource.Object](opts Options, images virtualimage.Kind[T], imports *job.Pool, registry virtualimage.Registry, finalizer string) (*kept[T], error) {
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
	reconciler := &virtualimage.Reconciler[T]{
		Kind: images, Imports: imports, Registry: registry, Now: time.Now,
		Changed: func(key resource.Key) { own.loop.Trigger(key) },
	}
	own.methods, err = resource.NewMethods(resource.MethodOptions[T]{
		Collection: collection, Schema: rules, Admit: reconciler.Admit, Holding: reconciler.Holding(opts.BlobPath),
	})
	if err != nil {
		return nil, err
	}
	own.loop = reconcile.New(collection, reconciler, reconcile.Options{
		Name: k.Singular, Finalizer: finalizer, Logger: opts.Logger,
	})
	return own, nil
}

// Part is the service as a piece of a process.
func (s *Service) Part() serve.Part {
	return serve.Part{Name: "image", Register: s.register, Ready: s.ready, Run: s.run}
}

func (s *Service) register(registrar grpc.ServiceRegistrar) error {
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

// lead is what one replica does at a time. Imports end with it.
func (s *Service) lead(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.imports.Run(ctx) })
	group.Go(func() error { return s.images.loop.Run(ctx) })
	group.Go(func() error { return s.clusterImages.loop.Run(ctx) })
	return group.Wait()
}
