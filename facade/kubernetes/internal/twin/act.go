package twin

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	kitreconcile "orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
)

func (c *Controller) act(ctx context.Context, p *pair, action Action) error {
	switch action {
	case CreateInService:
		return c.createInService(ctx, p)
	case CreateInKubernetes:
		return c.createInKubernetes(ctx, p)
	case DeleteInService:
		_, err := c.client.Delete(ctx, p.key, resource.DeleteOptions{AllowMissing: true})
		return err
	case DeleteInKubernetes:
		return c.deleteInKubernetes(ctx, p)
	case Release:
		return c.release(ctx, p)
	case Push:
		return c.push(ctx, p)
	case PushOverConflict:
		c.events.Event(p.cr, corev1.EventTypeWarning, reasonConflict,
			"This was changed here and through another door; what is here was kept.")
		return c.push(ctx, p)
	case Pull:
		return c.pull(ctx, p)
	case Mark:
		return c.mark(ctx, p)
	case Rest:
		return nil
	}
	return fmt.Errorf("unknown action %q", action)
}

// createInService makes the service's object. The finalizer comes first: from
// then on the custom resource can't go without the service's object.
func (c *Controller) createInService(ctx context.Context, p *pair) error {
	if controllerutil.AddFinalizer(p.cr, Finalizer) {
		if err := c.kube.Update(ctx, p.cr); err != nil {
			return err
		}
	}
	if err := c.prepare(p); err != nil {
		return err
	}
	created, err := c.client.Create(ctx, p.wanted, resource.WriteOptions{})
	if err != nil {
		return err
	}
	return c.agreeOn(ctx, p, created)
}

// createInKubernetes shows what the service or another door made.
func (c *Controller) createInKubernetes(ctx context.Context, p *pair) error {
	owners, err := c.mirrors.ownersForKubernetes(ctx, c.kube, p.object)
	if err != nil {
		return err
	}
	cr := c.blank()
	cr.SetName(p.key.Name)
	cr.SetNamespace(p.key.Namespace)
	cr.SetFinalizers([]string{Finalizer})
	if err := wish(cr, p.object); err != nil {
		return err
	}
	cr.SetOwnerReferences(owners)
	remember(cr, Agreement{Digest: p.serviceSide.Digest, Store: p.store})
	if err := c.kube.Create(ctx, cr); err != nil {
		return err
	}
	p.cr = cr
	return c.markMirrored(ctx, p)
}

func (c *Controller) deleteInKubernetes(ctx context.Context, p *pair) error {
	if p.object == nil {
		c.events.Event(p.cr, corev1.EventTypeNormal, reasonDeleted, "This was deleted through another door.")
	}
	uid := p.cr.GetUID()
	return client.IgnoreNotFound(c.kube.Delete(ctx, p.cr, client.Preconditions{UID: &uid}))
}

func (c *Controller) release(ctx context.Context, p *pair) error {
	c.pace.forget(p.key)
	if !controllerutil.RemoveFinalizer(p.cr, Finalizer) {
		return nil
	}
	err := client.IgnoreNotFound(c.kube.Update(ctx, p.cr))
	p.cr = nil
	return err
}

// push brings the custom resource's wishes to the service, on top of the
// version that they were compared with.
func (c *Controller) push(ctx context.Context, p *pair) error {
	if err := c.prepare(p); err != nil {
		return err
	}
	p.wanted.GetMetadata().ResourceVersion = p.object.GetMetadata().GetResourceVersion()
	updated, err := c.client.Update(ctx, p.wanted, resource.UpdateOptions{})
	if err != nil {
		return err
	}
	return c.agreeOn(ctx, p, updated)
}

// prepare completes the service's form of the custom resource by what is the
// service's own: finalizers and private annotations.
func (c *Controller) prepare(p *pair) error {
	if err := c.mirrors.ownersForService(p.wanted); err != nil {
		return err
	}
	meta := p.wanted.GetMetadata()
	if meta.Annotations == nil {
		meta.Annotations = map[string]string{}
	}
	if p.object != nil {
		meta.Finalizers = p.object.GetMetadata().GetFinalizers()
		for key, value := range p.object.GetMetadata().GetAnnotations() {
			if isPrivate(key) {
				meta.Annotations[key] = value
			}
		}
	}
	meta.Annotations[kitreconcile.MirroredAnnotation] = string(p.cr.GetUID())
	return nil
}

// pull brings the service's wishes to the custom resource.
func (c *Controller) pull(ctx context.Context, p *pair) error {
	owners, err := c.mirrors.ownersForKubernetes(ctx, c.kube, p.object)
	if err != nil {
		return err
	}
	if err := wish(p.cr, p.object); err != nil {
		return err
	}
	p.cr.SetOwnerReferences(owners)
	controllerutil.AddFinalizer(p.cr, Finalizer)
	return c.agreeOn(ctx, p, p.object)
}

func (c *Controller) mark(ctx context.Context, p *pair) error {
	controllerutil.AddFinalizer(p.cr, Finalizer)
	if err := c.markMirrored(ctx, p); err != nil {
		return err
	}
	return c.agreeOn(ctx, p, p.object)
}

// agreeOn writes down, on the custom resource, that both sides are alike now.
func (c *Controller) agreeOn(ctx context.Context, p *pair, object resource.Object) error {
	side, err := sideOf(object)
	if err != nil {
		return err
	}
	p.object, p.serviceSide = object, side
	p.crSide = &Side{Digest: side.Digest, Deleting: p.crSide != nil && p.crSide.Deleting}
	remember(p.cr, Agreement{Digest: side.Digest, Store: p.store})
	return c.kube.Update(ctx, p.cr)
}

// markMirrored tells the service that Kubernetes' garbage collector looks after
// the object from now on.
func (c *Controller) markMirrored(ctx context.Context, p *pair) error {
	if p.marked() {
		return nil
	}
	meta := p.object.GetMetadata()
	annotations := maps.Clone(meta.GetAnnotations())
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[kitreconcile.MirroredAnnotation] = string(p.cr.GetUID())
	meta.Annotations = annotations
	updated, err := c.client.Update(ctx, p.object, resource.UpdateOptions{Mask: []string{"metadata.annotations"}})
	if err != nil {
		return err
	}
	p.object = updated
	return nil
}
