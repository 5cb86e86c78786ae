// Package twin keeps a custom resource and its service's object alike: the
// twins. It goes by descriptors and names no kind. It holds no state: what both
// sides last agreed on is written on the custom resource.
package twin

import (
	"context"
	"errors"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"orlop.dev/kit/fault"
	kitreconcile "orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
)

const (
	ownerPoll       = time.Second
	serviceDownPoll = time.Second
	refusedPoll     = time.Minute
)

// Options say what a controller works with.
type Options struct {
	Kind *kind.Kind
	// Kube reads custom resources from a cache and writes them.
	Kube client.Client
	// Mirrors has the services' objects of all kinds, this one's among them.
	Mirrors Mirrors
	Events  record.EventRecorder
	Logger  *slog.Logger
}

// Controller reconciles the pairs of one kind.
type Controller struct {
	kind    *kind.Kind
	gvk     schema.GroupVersionKind
	kube    client.Client
	mirrors Mirrors
	mirror  *resource.Mirror[resource.Object]
	client  *resource.Client[resource.Object]
	events  record.EventRecorder
	logger  *slog.Logger
	pace    *pace
}

// New returns a controller of one kind.
func New(opts Options) *Controller {
	gvk := schema.GroupVersionKind{Group: opts.Kind.Group, Version: opts.Kind.Version, Kind: opts.Kind.Name}
	mirror := opts.Mirrors[gvk]
	return &Controller{
		kind: opts.Kind, gvk: gvk, kube: opts.Kube, mirrors: opts.Mirrors, mirror: mirror, client: mirror.Client(),
		events: opts.Events, logger: opts.Logger.With("kind", opts.Kind.Name), pace: newPace(time.Now),
	}
}

// pair is one custom resource and its service's object as they were read.
type pair struct {
	key    resource.Key
	cr     *unstructured.Unstructured // nil: none
	object resource.Object            // nil: none
	// wanted is the custom resource in the service's form; nil with it.
	wanted resource.Object

	crSide, serviceSide *Side
	store               string
}

func (p *pair) alike() bool {
	return p.crSide != nil && p.serviceSide != nil && p.crSide.Digest == p.serviceSide.Digest
}

// Reconcile does the next step for one pair. Idempotent; safe to end anywhere.
func (c *Controller) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	key := resource.Key(request.NamespacedName)
	if !c.mirror.Synced() {
		// Nothing is known of the service's objects: all would seem to be missing.
		return reconcile.Result{RequeueAfter: serviceDownPoll}, nil
	}
	p, err := c.observe(ctx, key)
	var refusal *fault.Fault
	if err == nil {
		action := p.action()
		if action != Rest {
			c.logger.DebugContext(ctx, "next step", "object", key, "action", action)
		}
		err = c.act(ctx, p, action)
	}
	if refusal = refused(err); refusal != nil && p.cr != nil {
		c.announceRefusal(p.cr, refusal)
		err = nil
	}
	if err != nil {
		return c.retry(ctx, key, err)
	}
	wait, err := c.show(ctx, p, refusal)
	if err != nil {
		return c.retry(ctx, key, err)
	}
	if refusal != nil {
		wait = refusedPoll
	}
	return reconcile.Result{RequeueAfter: wait}, nil
}

// action is Decide's, and marks a service's object whose mark is missing: its
// custom resource is new, or the mark was overwritten through another door.
func (p *pair) action() Action {
	action := Decide(p.crSide, p.serviceSide, p.agreement(), p.store)
	if action == Rest && p.alike() && !p.crSide.Deleting && !p.serviceSide.Deleting && !p.marked() {
		return Mark
	}
	return action
}

func (p *pair) marked() bool {
	return p.object.GetMetadata().GetAnnotations()[kitreconcile.MirroredAnnotation] == string(p.cr.GetUID())
}

func (p *pair) agreement() Agreement {
	if p.cr == nil {
		return Agreement{}
	}
	return agreementOf(p.cr)
}

func (c *Controller) observe(ctx context.Context, key resource.Key) (*pair, error) {
	p := &pair{key: key, store: c.mirror.Store()}
	if object, found := c.mirror.Get(key); found {
		side, err := sideOf(object)
		if err != nil {
			return p, err
		}
		p.object, p.serviceSide = object, side
	}
	cr := c.blank()
	if err := c.kube.Get(ctx, client.ObjectKey(key), cr); err != nil {
		return p, client.IgnoreNotFound(err)
	}
	p.cr = cr
	err := p.readWishes(c.kind)
	if cr.GetDeletionTimestamp() == nil {
		return p, err
	}
	// What can't be read can be deleted all the same.
	if err != nil {
		p.crSide = &Side{}
	}
	p.crSide.Deleting = true
	return p, nil
}

// readWishes reads the service's form of the custom resource.
func (p *pair) readWishes(k *kind.Kind) error {
	wanted, err := objectOf(k, p.cr)
	if err != nil {
		return err
	}
	side, err := sideOf(wanted)
	if err != nil {
		return err
	}
	p.wanted, p.crSide = wanted, side
	return nil
}

func sideOf(object resource.Object) (*Side, error) {
	sum, err := digest(object)
	if err != nil {
		return nil, err
	}
	return &Side{Digest: sum, Deleting: resource.Terminating(object)}, nil
}

func (c *Controller) blank() *unstructured.Unstructured {
	cr := new(unstructured.Unstructured)
	cr.SetGroupVersionKind(c.gvk)
	return cr
}

// refused returns the fault of a service that won't do what the custom resource
// says, whenever it is asked; nil for everything else.
func refused(err error) *fault.Fault {
	if err == nil {
		return nil
	}
	var f *fault.Fault
	if !errors.As(err, &f) {
		return nil
	}
	switch f.Class {
	case fault.Invalid, fault.Denied, fault.NotReady, fault.Exhausted:
		return f
	}
	return nil
}

// retry says when to look again after an error that passes by itself.
func (c *Controller) retry(ctx context.Context, key resource.Key, err error) (reconcile.Result, error) {
	var f *fault.Fault
	switch {
	case errors.Is(err, errOwnerAbsent):
		return reconcile.Result{RequeueAfter: ownerPoll}, nil
	case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err):
		// The cache is behind; its next event brings the pair back. The poll is for
		// a namespace that isn't there yet.
		return reconcile.Result{RequeueAfter: ownerPoll}, nil
	case errors.As(err, &f) && (f.Class == fault.Stale || f.Class == fault.Exists):
		// The mirror is behind: a Get feeds it, so that the next look is not.
		if _, err := c.client.Get(ctx, key); fault.From(err) != nil && fault.From(err).Class != fault.NotFound {
			return reconcile.Result{}, err
		}
		return reconcile.Result{RequeueAfter: ownerPoll}, nil
	case errors.As(err, &f) && f.Class == fault.Transient:
		// No back-off: it would go on for minutes after the service is back.
		return reconcile.Result{RequeueAfter: serviceDownPoll}, nil
	}
	return reconcile.Result{}, err
}
