package virtualimage

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/image/internal/intake"
)

const kindVirtualMachine = "VirtualMachine"

// Holding lets others use the images of a reconciler.
func (r *Reconciler[T]) Holding() *resource.Holding[T] {
	return &resource.Holding[T]{
		Admit: func(ctx context.Context, image T, _ *metav1.Holder) error {
			_, err := r.blob(ctx, image)
			return err
		},
		Answer: func(ctx context.Context, image T, _ *metav1.Holder) (proto.Message, error) {
			return r.blob(ctx, image)
		},
	}
}

// blob tells where an image is that can be used, or says why it can't.
func (r *Reconciler[T]) blob(ctx context.Context, image T) (*imagev1.Blob, error) {
	if r.Disks == nil || !onVolume(r.Kind.spec(image)) {
		found, err := r.ready(ctx, image)
		if err != nil {
			return nil, err
		}
		return r.Intake.Registry.Blob(r.Kind.repository(image.GetMetadata()), found), nil
	}
	var o observation
	if err := r.look(ctx, image, &o); o.Unseen != nil {
		return nil, err
	}
	if o.Published == nil {
		return nil, r.unready(image)
	}
	return o.volume.GetBlob(), nil
}

// ready returns an image in the registry that can be used, or says why it can't.
func (r *Reconciler[T]) ready(ctx context.Context, image T) (*intake.Published, error) {
	found, err := r.Intake.Current(ctx, r.wish(image))
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, r.unready(image)
	}
	return found, nil
}

func (r *Reconciler[T]) unready(image T) error {
	old := r.Kind.old(image)
	return fault.New(fault.NotReady, "ImageNotReady", "image %s is not Ready: %s %s",
		image.GetMetadata().GetName(), old.GetPhase(), old.GetProgress())
}

// usedInNamespaces are the namespaces with VMs that use an image.
func usedInNamespaces(holders []*metav1.Holder) []string {
	var namespaces []string
	for _, holder := range holders {
		if holder.GetKind() == kindVirtualMachine {
			namespaces = append(namespaces, holder.GetNamespace())
		}
	}
	slices.Sort(namespaces)
	return slices.Compact(namespaces)
}

// activeHolders are those that keep an image from being deleted, machines first.
func activeHolders(image resource.Object) (machines, others []string) {
	for _, holder := range image.GetMetadata().GetHolders() {
		switch {
		case !holder.GetActive():
		case holder.GetKind() == kindVirtualMachine:
			machines = append(machines, holder.GetNamespace()+"/"+holder.GetName())
		default:
			others = append(others, holder.GetKind()+" "+holder.GetNamespace()+"/"+holder.GetName())
		}
	}
	slices.Sort(machines)
	slices.Sort(others)
	return machines, others
}
