package twin

import (
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
)

const group = "virtualization.deckhouse.io/v1alpha2"

// mirrorsWith are mirrors of disks that show these.
func mirrorsWith(t *testing.T, disks ...*diskv1.VirtualDisk) Mirrors {
	t.Helper()
	k := kind.Must(&diskv1.VirtualDisk{})
	client, err := resource.NewClient[resource.Object](nil, k)
	if err != nil {
		t.Fatal(err)
	}
	mirror := resource.NewMirror(client, resource.MirrorOptions[resource.Object]{})
	for _, disk := range disks {
		mirror.Observe(disk)
	}
	return Mirrors{gvkOf(reference("VirtualDisk", "", "")): mirror}
}

func reference(kind, name, uid string) *metav1.OwnerReference {
	return &metav1.OwnerReference{ApiVersion: group, Kind: kind, Name: name, Uid: uid}
}

func owned(owners ...*metav1.OwnerReference) *diskv1.VirtualDisk {
	return &diskv1.VirtualDisk{Metadata: &metav1.ObjectMeta{Namespace: "a", Name: "dependent", OwnerReferences: owners}}
}

func TestOwnersForService(t *testing.T) {
	mirrors := mirrorsWith(t, &diskv1.VirtualDisk{
		Metadata: &metav1.ObjectMeta{Namespace: "a", Name: "owner", Uid: "service-uid", ResourceVersion: "1"},
	})
	known, foreign := reference("VirtualDisk", "owner", "cr-uid"), reference("Unheard", "of", "its-uid")
	dependent := owned(known, foreign)
	if err := mirrors.ownersForService(dependent); err != nil {
		t.Fatal(err)
	}
	if known.GetUid() != "service-uid" || foreign.GetUid() != "its-uid" {
		t.Errorf("the owners are %v", dependent.GetMetadata().GetOwnerReferences())
	}
	if err := mirrors.ownersForService(owned(reference("VirtualDisk", "nobody", "x"))); !errors.Is(err, errOwnerAbsent) {
		t.Errorf("an absent owner: %v", err)
	}
}

func TestOwnersForKubernetes(t *testing.T) {
	mirrors := mirrorsWith(t)
	cr := new(unstructured.Unstructured)
	cr.SetGroupVersionKind(gvkOf(reference("VirtualDisk", "", "")))
	cr.SetNamespace("a")
	cr.SetName("owner")
	cr.SetUID("cr-uid")
	kube := fake.NewClientBuilder().WithObjects(cr).Build()

	yes := true
	known := reference("VirtualDisk", "owner", "service-uid")
	known.Controller = &yes
	owners, err := mirrors.ownersForKubernetes(t.Context(), kube, owned(known, reference("Unheard", "of", "its-uid")))
	if err != nil {
		t.Fatal(err)
	}
	if len(owners) != 2 || owners[0].UID != "cr-uid" || !*owners[0].Controller || owners[1].UID != "its-uid" {
		t.Errorf("the owners are %v", owners)
	}
	if _, err := mirrors.ownersForKubernetes(t.Context(), kube, owned(reference("VirtualDisk", "nobody", "x"))); !errors.Is(err, errOwnerAbsent) {
		t.Errorf("an absent owner: %v", err)
	}
}

func TestDigestTellsOwnersByName(t *testing.T) {
	sum := func(owners ...*metav1.OwnerReference) string {
		s, err := digest(owned(owners...))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b := reference("VirtualDisk", "a", "1"), reference("VirtualDisk", "b", "2")
	if sum(a) != sum(reference("VirtualDisk", "a", "other")) {
		t.Error("UIDs differ between the sides and must not count")
	}
	if sum(a, b) != sum(b, a) {
		t.Error("the order counts")
	}
	if sum(a) == sum() || sum(a) == sum(b) {
		t.Error("owners don't count")
	}
}
