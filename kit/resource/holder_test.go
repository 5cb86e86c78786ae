package resource_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// oneAtATime admits a holder only where no other is active.
func oneAtATime(_ context.Context, d *diskv1.VirtualDisk, holder *metav1.Holder) error {
	for _, h := range d.GetMetadata().GetHolders() {
		if h.GetActive() && h.GetUid() != holder.GetUid() {
			return fault.New(fault.NotReady, "InUse", "used by %s", h.GetName())
		}
	}
	return nil
}

func startHolding(t *testing.T) methods {
	return startMethods(t, resource.MethodOptions[*diskv1.VirtualDisk]{Holding: &resource.Holding[*diskv1.VirtualDisk]{
		Admit: oneAtATime,
		Answer: func(_ context.Context, d *diskv1.VirtualDisk, h *metav1.Holder) (proto.Message, error) {
			return &diskv1.Volume{Path: "/" + d.GetMetadata().GetName() + "/" + h.GetName()}, nil
		},
	}})
}

func holder(uid string) *metav1.Holder {
	return &metav1.Holder{Kind: "VirtualMachine", Namespace: namespace, Name: uid, Uid: uid, Active: true}
}

func TestOfManyHoldersOneGetsIn(t *testing.T) {
	m := startHolding(t)
	create(t, m.Collection, "a")
	const holders = 8
	errs := make([]error, holders)
	var all sync.WaitGroup
	for i := range holders {
		all.Go(func() {
			errs[i] = m.client.Claim(t.Context(), key("a"), holder(fmt.Sprint("vm", i)), &diskv1.Volume{})
		})
	}
	all.Wait()
	admitted := 0
	for _, err := range errs {
		if err == nil {
			admitted++
		} else {
			wantFault(t, err, fault.NotReady, "InUse")
		}
	}
	if admitted != 1 {
		t.Errorf("%d holders got in, want 1", admitted)
	}
}

func TestHeldObjectGoesWithItsLastHolder(t *testing.T) {
	m := startHolding(t)
	ctx := t.Context()
	create(t, m.Collection, "a")
	var volume diskv1.Volume
	for range 2 { // a claim is idempotent
		if err := m.client.Claim(ctx, key("a"), holder("vm"), &volume); err != nil {
			t.Fatal(err)
		}
	}
	if volume.GetPath() != "/a/vm" {
		t.Errorf("answer %v, want the holder's volume", &volume)
	}
	d, err := m.client.Delete(ctx, key("a"), resource.DeleteOptions{})
	if err != nil || resource.Gone(d) || len(d.Metadata.Holders) != 1 {
		t.Fatalf("got %v, %v: want it terminating, with its one holder", d, err)
	}
	wantFault(t, m.client.Claim(ctx, key("a"), holder("other"), &volume), fault.NotReady, resource.ReasonTerminating)
	for range 2 { // so is a release
		if err := m.client.Release(ctx, key("a"), "vm"); err != nil {
			t.Fatal(err)
		}
	}
	_, err = m.Get(key("a"))
	wantFault(t, err, fault.NotFound, resource.ReasonNotFound)
}
