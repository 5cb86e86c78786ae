package virtualimage

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

const kindVirtualMachine = "VirtualMachine"

// Holding lets others use the images of a reconciler. blobPath finds the file of
// a blob where the registry's storage is on this machine; it may be nil.
func (r *Reconciler[T]) Holding(blobPath func(digest string) (string, bool)) *resource.Holding[T] {
	return &resource.Holding[T]{
		Admit: func(ctx context.Context, image T, _ *metav1.Holder) error {
			_, err := r.ready(ctx, image)
			return err
		},
		Answer: func(ctx context.Context, image T, _ *metav1.Holder) (proto.Message, error) {
			found, err := r.ready(ctx, image)
			if err != nil {
				return nil, err
			}
			blob := &imagev1.Blob{
				RegistryUrl: r.location(image) + "@" + found.manifest,
				Digest:      found.Disk.Digest.String(), Format: found.Format,
				StoredBytes: found.Disk.Size, VirtualBytes: found.VirtualBytes, Cdrom: found.CDROM,
			}
			if blobPath != nil {
				if path, here := blobPath(blob.GetDigest()); here {
					blob.Path = path
				}
			}
			return blob, nil
		},
	}
}

// ready returns an image that can be used, or says why it can't.
func (r *Reconciler[T]) ready(ctx context.Context, image T) (*published, error) {
	found, err := r.current(ctx, image)
	if err != nil {
		return nil, err
	}
	if found == nil {
		old := r.Kind.old(image)
		return nil, fault.New(fault.NotReady, "ImageNotReady", "image %s is not Ready: %s %s",
			image.GetMetadata().GetName(), old.GetPhase(), old.GetProgress())
	}
	return found, nil
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

func activeHolder(image resource.Object) *metav1.Holder {
	for _, holder := range image.GetMetadata().GetHolders() {
		if holder.GetActive() {
			return holder
		}
	}
	return nil
}
