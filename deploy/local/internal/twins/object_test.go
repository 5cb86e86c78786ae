package twins_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubemeta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

func newCR(kind, name string, spec map[string]any) *unstructured.Unstructured {
	cr := new(unstructured.Unstructured)
	cr.SetGroupVersionKind(schema.GroupVersionKind{Group: "virtualization.deckhouse.io", Version: "v1alpha2", Kind: kind})
	cr.SetNamespace(namespace)
	cr.SetName(name)
	if spec != nil {
		cr.Object["spec"] = spec
	}
	return cr
}

func disk(name, size string) *unstructured.Unstructured {
	return newCR("VirtualDisk", name, map[string]any{"persistentVolumeClaim": map[string]any{"size": size}})
}

func address(name string, owner *unstructured.Unstructured) *unstructured.Unstructured {
	cr := newCR("VirtualMachineIPAddress", name, map[string]any{"type": "Auto"})
	cr.SetOwnerReferences([]kubemeta.OwnerReference{{
		APIVersion: owner.GetAPIVersion(), Kind: owner.GetKind(), Name: owner.GetName(), UID: owner.GetUID(),
	}})
	return cr
}

func remoteDisk(name, size string) *diskv1.VirtualDisk {
	return &diskv1.VirtualDisk{
		Metadata: &metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:     &diskv1.VirtualDiskSpec{PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: size}},
	}
}

func key(name string) resource.Key { return resource.Key{Namespace: namespace, Name: name} }

// settled creates a custom resource and waits until both sides agree on it.
func (h *house) settled(t *testing.T, cr *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	check(t, h.kube.Create(t.Context(), cr))
	return h.agreed(t, cr)
}

func (h *house) agreed(t *testing.T, cr *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	return h.eventually(t, cr, "is agreed on", func(cr *unstructured.Unstructured) bool {
		return cr.GetAnnotations()["orlop.dev/synced"] != ""
	})
}

func (h *house) get(t *testing.T, cr *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	present := newCR(cr.GetKind(), cr.GetName(), nil)
	check(t, h.kube.Get(t.Context(), client.ObjectKeyFromObject(present), present))
	return present
}

func (h *house) eventually(t *testing.T, cr *unstructured.Unstructured, what string, holds func(*unstructured.Unstructured) bool) *unstructured.Unstructured {
	t.Helper()
	present := newCR(cr.GetKind(), cr.GetName(), nil)
	poll(t, cr.GetName()+" "+what, func() bool {
		return h.kube.Get(t.Context(), client.ObjectKeyFromObject(present), present) == nil && holds(present)
	})
	return present
}

func (h *house) eventuallyGone(t *testing.T, cr *unstructured.Unstructured) {
	t.Helper()
	present := newCR(cr.GetKind(), cr.GetName(), nil)
	poll(t, cr.GetName()+" is gone", func() bool {
		return apierrors.IsNotFound(h.kube.Get(t.Context(), client.ObjectKeyFromObject(present), present))
	})
}

func (h *house) eventuallyEvent(t *testing.T, name, reason string) {
	t.Helper()
	poll(t, "an event "+reason+" of "+name, func() bool {
		events := new(corev1.EventList)
		check(t, h.kube.List(t.Context(), events, client.InNamespace(namespace)))
		for _, event := range events.Items {
			if event.Reason == reason && event.InvolvedObject.Name == name {
				return true
			}
		}
		return false
	})
}

// setStatus is what the service's reconciler would do.
func (h *house) setStatus(t *testing.T, name string, status *diskv1.VirtualDiskStatus) {
	t.Helper()
	present, err := h.collection.Get(key(name))
	check(t, err)
	status.ObservedGeneration = present.GetMetadata().GetGeneration()
	_, err = h.collection.UpdateStatus(t.Context(), key(name), present.GetMetadata().GetUid(), status)
	check(t, err)
}

func (h *house) serviceHas(t *testing.T, name string) bool {
	t.Helper()
	_, err := h.disks.Get(t.Context(), key(name))
	if err != nil && !fault.Is(err, fault.NotFound, fault.Transient) {
		t.Fatal(err)
	}
	return err == nil
}

func text(cr *unstructured.Unstructured, path ...string) string {
	value, _, _ := unstructured.NestedString(cr.Object, path...)
	return value
}

func condition(cr *unstructured.Unstructured, name string) map[string]any {
	conditions, _, _ := unstructured.NestedSlice(cr.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == name {
			return c
		}
	}
	return nil
}

// poll looks until something holds. The state of the world is what counts; the
// deadline is no measure.
func poll(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	give := time.After(deadline)
	for !holds() {
		select {
		case <-tick.C:
		case <-give:
			t.Fatalf("never: %s", what)
		}
	}
}
