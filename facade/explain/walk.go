package explain

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"

	explainv1 "orlop.dev/gen/orlop/explain/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
)

// place is where an object is.
type place struct {
	kind *kind.Kind
	key  resource.Key
}

// walk is one way through what is waited for.
type walk struct {
	connect func(service string) (grpc.ClientConnInterface, error)
	seen    map[place]bool
}

func (w *walk) get(ctx context.Context, at place) (resource.Object, error) {
	conn, err := w.connect(string(at.kind.Service))
	if err != nil {
		return nil, err
	}
	client, err := resource.NewClient[resource.Object](conn, at.kind)
	if err != nil {
		return nil, err
	}
	return client.Get(ctx, at.key)
}

// explain tells of an object, and of what keeps it. An object that lacks nothing
// has no causes, whatever it refers to.
func (w *walk) explain(ctx context.Context, at place, object resource.Object, depth int) *explainv1.Cause {
	w.seen[at] = true
	cause := causeAt(at)
	status := statusOf(at.kind, object)
	cause.Phase, cause.Progress = word(status, "phase"), word(status, "progress")
	cause.Findings = findings(at.kind, status)
	cause.State = explainv1.CauseState_Settled
	if len(cause.GetFindings()) > 0 {
		cause.State = explainv1.CauseState_Waiting
	}
	if resource.Terminating(object) {
		cause.State = explainv1.CauseState_Terminating
		w.followHolders(ctx, cause, object, depth)
		return cause
	}
	if cause.GetState() == explainv1.CauseState_Waiting {
		w.followReferences(ctx, cause, at, object, depth)
	}
	return cause
}

// followHolders finds who keeps an object that is to go.
func (w *walk) followHolders(ctx context.Context, cause *explainv1.Cause, object resource.Object, depth int) {
	for _, holder := range object.GetMetadata().GetHolders() {
		if holder.GetActive() {
			w.follow(ctx, cause, holderPlace(holder), explainv1.CauseRelation_Holder, depth)
		}
	}
	if finalizers := object.GetMetadata().GetFinalizers(); len(cause.GetCauses()) == 0 && len(finalizers) > 0 {
		cause.Findings = append(cause.GetFindings(), &explainv1.Finding{
			Condition: "Deleted", Reason: "FinalizersLeft", Since: object.GetMetadata().GetDeletionTimestamp(),
			Message: "Its service still clears up after it: " + strings.Join(finalizers, ", ") + ".",
		})
	}
}

// followReferences finds what an object needs and can't have: what isn't there,
// what isn't as it should be, and what another one uses.
func (w *walk) followReferences(ctx context.Context, cause *explainv1.Cause, at place, object resource.Object, depth int) {
	for _, ref := range references(at, object) {
		needed := w.follow(ctx, cause, ref, explainv1.CauseRelation_Needed, depth)
		if needed == nil {
			continue
		}
		for _, holder := range needed.GetMetadata().GetHolders() {
			if !holder.GetActive() || holder.GetUid() == object.GetMetadata().GetUid() || !mentions(cause, holder) {
				continue
			}
			used := causeAt(ref)
			used.Relation, used.State = explainv1.CauseRelation_Needed, explainv1.CauseState_Settled
			used.Phase = word(statusOf(ref.kind, needed), "phase")
			w.follow(ctx, used, holderPlace(holder), explainv1.CauseRelation_Holder, depth+1)
			cause.Causes = append(cause.GetCauses(), used)
		}
	}
}

// mentions reports whether a finding names the holder: many may hold an image
// and keep nobody from it.
func mentions(cause *explainv1.Cause, holder *metav1.Holder) bool {
	return slices.ContainsFunc(cause.GetFindings(), func(f *explainv1.Finding) bool {
		return strings.Contains(f.GetMessage(), holder.GetKind()+" "+holder.GetName())
	})
}

// follow adds what is known of another object, unless it lacks nothing. It
// returns one that lacks nothing; a holder is told of in any case.
func (w *walk) follow(ctx context.Context, cause *explainv1.Cause, at place, relation explainv1.CauseRelation_Value, depth int) resource.Object {
	if at.kind == nil || w.seen[at] || depth >= maxDepth {
		return nil
	}
	object, err := w.get(ctx, at)
	var next *explainv1.Cause
	switch {
	case fault.Is(err, fault.NotFound):
		next = causeAt(at)
		next.State = explainv1.CauseState_Missing
	case err != nil:
		next = causeAt(at)
		next.State = explainv1.CauseState_Hidden
		next.Findings = []*explainv1.Finding{{Condition: "Visible", Reason: fault.ReasonOf(err), Message: fault.From(err).Message}}
	default:
		next = w.explain(ctx, at, object, depth+1)
		delete(w.seen, at) // it may keep others as well
		if next.GetState() == explainv1.CauseState_Settled && relation == explainv1.CauseRelation_Needed {
			return object
		}
	}
	next.Relation = relation
	cause.Causes = append(cause.GetCauses(), next)
	return nil
}

func causeAt(at place) *explainv1.Cause {
	return &explainv1.Cause{Kind: at.kind.Name, Namespace: at.key.Namespace, Name: at.key.Name}
}

func holderPlace(holder *metav1.Holder) place {
	k, err := Find(holder.GetKind())
	if err != nil {
		return place{}
	}
	return place{k, resource.Key{Namespace: holder.GetNamespace(), Name: holder.GetName()}}
}

// String names a cause to people.
func String(c *explainv1.Cause) string {
	name := c.GetName()
	if c.GetNamespace() != "" {
		name = c.GetNamespace() + "/" + name
	}
	return fmt.Sprintf("%s %s", c.GetKind(), name)
}
