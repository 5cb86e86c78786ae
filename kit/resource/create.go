package resource

import (
	"context"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/util/rand"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
)

const (
	// generatedChars is the length of the random end of a generated name.
	generatedChars = 5
	// generateAttempts bounds the search for a free name: among 27^5 endings a
	// second attempt is rare.
	generateAttempts = 8
)

// Create stores a new object and returns it as stored. The caller gives name or
// generateName, namespace, labels, annotations, owners, finalizers, spec and, if
// any, status; everything else in metadata is given here. Class Exists if the
// name is taken. obj is not changed.
func (c *Collection[T]) Create(ctx context.Context, obj T) (T, error) {
	return c.create(ctx, obj, nil)
}

func (c *Collection[T]) create(ctx context.Context, obj T, answer *answer) (T, error) {
	var none T
	if err := c.replica.ready(); err != nil {
		return none, err
	}
	obj = c.newborn(obj)
	generated := obj.GetMetadata().GetName() == ""
	for attempt := 1; ; attempt++ {
		if generated {
			meta(c.kind, obj).Name = obj.GetMetadata().GetGenerateName() + rand.String(generatedChars)
		}
		created, err := c.insert(ctx, obj, answer)
		if generated && fault.Is(err, fault.Exists) && attempt < generateAttempts {
			continue
		}
		return created, err
	}
}

// newborn returns obj with the metadata of a new object.
func (c *Collection[T]) newborn(obj T) T {
	obj = Clone(obj)
	c.kind.SetType(obj.ProtoReflect())
	given := obj.GetMetadata()
	m := &metav1.ObjectMeta{
		Name: given.GetName(), GenerateName: given.GetGenerateName(), Namespace: given.GetNamespace(),
		Labels: given.GetLabels(), Annotations: given.GetAnnotations(), OwnerReferences: given.GetOwnerReferences(),
		Finalizers: union(c.opts.Finalizers, given.GetFinalizers()),

		Uid: uuid.NewString(), Generation: 1, CreationTimestamp: timestamp(c.now()),
	}
	setMeta(c.kind, obj, m)
	return obj
}

// insert stores obj if its name is free.
func (c *Collection[T]) insert(ctx context.Context, obj T, answer *answer) (T, error) {
	var none T
	key := c.store.objects + KeyOf(obj).path()
	value, err := c.encode(obj)
	if err != nil {
		return none, err
	}
	then, conditions := []clientv3.Op{clientv3.OpPut(key, string(value))}, []clientv3.Cmp{absent(key)}
	if answer != nil {
		op, err := c.record(ctx, answer, value, 0)
		if err != nil {
			return none, err
		}
		then, conditions = append(then, op), append(conditions, absent(c.store.requests+answer.id))
	}
	resp, err := c.commit(ctx, conditions, then)
	switch {
	case err != nil:
		return none, err
	case !resp.Succeeded && answer != nil:
		return c.repeatOr(ctx, answer, c.exists(KeyOf(obj)))
	case !resp.Succeeded:
		return none, c.exists(KeyOf(obj))
	}
	return c.seen(ctx, obj, resp.Header.Revision)
}

// seen gives a written object its version, and returns it once the copy shows it.
func (c *Collection[T]) seen(ctx context.Context, obj T, revision int64) (T, error) {
	meta(c.kind, obj).ResourceVersion = version(revision)
	if err := c.replica.wait(ctx, revision); err != nil {
		var none T
		return none, fault.Wrap(err, fault.Transient, fault.ReasonDeadlineExceeded, "written, but not seen yet")
	}
	return obj, nil
}

func (c *Collection[T]) exists(key Key) error {
	return fault.New(fault.Exists, ReasonAlreadyExists, "%s.%s %q already exists", c.kind.Plural, c.kind.Group, key.Name)
}

func absent(key string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
}
