package twins_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	kubemeta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/resource"
)

// TestTwins tells its stories in one house, since a house costs seconds. The
// order counts only in that the last story loses the store.
func TestTwins(t *testing.T) {
	h := newHouse(t)
	stopService := h.startService(t, "/first")
	stopFacade := h.startFacade(t)
	t.Run("a change of phase is an event", h.testPhases)
	t.Run("a storm of progress becomes few writes", h.testStorm)
	t.Run("nothing is written in quiet", h.testQuiet)
	t.Run("a refusal after admission is a condition and an event", h.testRefusal)
	t.Run("a mark that was overwritten comes back", h.testMark)
	t.Run("owners are translated and cascade", h.testOwners)
	t.Run("an owner that was taken away takes nothing with it", h.testDisowned)
	t.Run("the facade was away", func(t *testing.T) { stopFacade = h.testFacadeAway(t, stopFacade) })
	t.Run("the facade ends in the middle of things", func(t *testing.T) { stopFacade = h.testFacadeCut(t, stopFacade) })
	t.Run("the service was away", func(t *testing.T) { stopService = h.testServiceAway(t, stopService) })
	t.Run("the service lost its store", func(t *testing.T) { h.testLostStore(t, stopService) })
	stopFacade()
}

func (h *house) testPhases(t *testing.T) {
	cr := h.settled(t, disk("phases", "1Mi"))
	h.setStatus(t, "phases", &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Provisioning})
	h.eventuallyEvent(t, "phases", "Provisioning")
	h.setStatus(t, "phases", &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Failed})
	h.eventuallyEvent(t, "phases", "Failed")
	observed := h.eventually(t, cr, "has failed", func(cr *unstructured.Unstructured) bool { return text(cr, "status", "phase") == "Failed" })
	if got, _, _ := unstructured.NestedInt64(observed.Object, "status", "observedGeneration"); got != observed.GetGeneration() {
		t.Errorf("the status speaks of generation %d, which is %d", got, observed.GetGeneration())
	}
}

// testStorm counts the custom resource's versions while its service reports
// progress as fast as it can.
func (h *house) testStorm(t *testing.T) {
	const reports = 300
	cr := h.settled(t, disk("storm", "1Mi"))
	h.setStatus(t, "storm", &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Provisioning, Progress: "0%"})
	cr = h.eventually(t, cr, "is filled", func(cr *unstructured.Unstructured) bool { return text(cr, "status", "phase") == "Provisioning" })
	watcher := h.watch(t, cr)
	defer watcher.Stop()

	began := time.Now()
	for i := range reports {
		h.setStatus(t, "storm", &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Provisioning, Progress: fmt.Sprintf("%d.%d%%", i/10, i%10)})
	}
	h.setStatus(t, "storm", &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready, Progress: "100%"})
	writes := 0
	for event := range watcher.ResultChan() {
		writes++
		if text(event.Object.(*unstructured.Unstructured), "status", "phase") == "Ready" {
			break
		}
	}
	// One a second, the first, the news at the end, and one for the clock's edge.
	if most := int(time.Since(began)/time.Second) + 3; writes > most {
		t.Errorf("%d reports became %d writes, want %d at most", reports, writes, most)
	}
}

func (h *house) watch(t *testing.T, cr *unstructured.Unstructured) watch.Interface {
	t.Helper()
	c, err := client.NewWithWatch(h.config, client.Options{})
	check(t, err)
	list := new(unstructured.UnstructuredList)
	list.SetGroupVersionKind(cr.GroupVersionKind())
	watcher, err := c.Watch(t.Context(), list, &client.ListOptions{
		Namespace: cr.GetNamespace(),
		Raw: &kubemeta.ListOptions{
			FieldSelector: "metadata.name=" + cr.GetName(), ResourceVersion: cr.GetResourceVersion(),
		},
	})
	check(t, err)
	return watcher
}

// testQuiet takes other objects through their lives: whatever the controller
// would do to the first one by itself, it had the time to.
func (h *house) testQuiet(t *testing.T) {
	h.settled(t, disk("quiet", "1Mi"))
	h.setStatus(t, "quiet", &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready, Progress: "100%", Conditions: []*metav1.Condition{
		{Type: "Ready", Status: metav1.ConditionStatus_True, Reason: "Ready", ObservedGeneration: 1, LastTransitionTime: timestamppb.Now()},
	}})
	quiet := h.eventually(t, disk("quiet", ""), "is Ready", func(cr *unstructured.Unstructured) bool { return text(cr, "status", "phase") == "Ready" })
	remote, err := h.disks.Get(t.Context(), key("quiet"))
	check(t, err)
	for i := range 5 {
		name := fmt.Sprintf("busy-%d", i)
		busy := h.settled(t, disk(name, "1Mi"))
		h.setStatus(t, name, &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready})
		h.eventually(t, busy, "is Ready", func(cr *unstructured.Unstructured) bool { return text(cr, "status", "phase") == "Ready" })
		check(t, h.kube.Delete(t.Context(), busy))
		h.eventuallyGone(t, busy)
	}
	if now := h.get(t, quiet); now.GetResourceVersion() != quiet.GetResourceVersion() {
		t.Errorf("the custom resource was written: %v, was %v", now.Object, quiet.Object)
	}
	still, err := h.disks.Get(t.Context(), key("quiet"))
	check(t, err)
	if still.GetMetadata().GetResourceVersion() != remote.GetMetadata().GetResourceVersion() {
		t.Errorf("the service's object was written: %v, was %v", still, remote)
	}
}

// testRefusal writes with the facade's own hand, which admission doesn't ask
// about, what the service refuses.
func (h *house) testRefusal(t *testing.T) {
	if err := h.kube.Create(t.Context(), disk("refused", refusedSize)); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("admission says %v", err)
	}
	check(t, h.byFacade.Create(t.Context(), disk("refused", refusedSize)))
	refused := h.eventually(t, disk("refused", ""), "says why", func(cr *unstructured.Unstructured) bool { return condition(cr, "Synced") != nil })
	if c := condition(refused, "Synced"); c["status"] != "False" || c["reason"] != "NoSpace" || !strings.Contains(c["message"].(string), "no room") {
		t.Errorf("the condition is %v", c)
	}
	h.eventuallyEvent(t, "refused", "NoSpace")
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"persistentVolumeClaim":{"size":"1Mi"}}}`))
	check(t, h.kube.Patch(t.Context(), disk("refused", "1Mi"), patch))
	h.agreed(t, refused)
	h.setStatus(t, "refused", &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready})
	mended := h.eventually(t, refused, "is Ready", func(cr *unstructured.Unstructured) bool { return text(cr, "status", "phase") == "Ready" })
	if c := condition(mended, "Synced"); c != nil {
		t.Errorf("a mended object still says %v", c)
	}

	// A refused object that was never made can be deleted.
	check(t, h.byFacade.Create(t.Context(), disk("never", refusedSize)))
	h.eventuallyEvent(t, "never", "NoSpace")
	check(t, h.kube.Delete(t.Context(), disk("never", "")))
	h.eventuallyGone(t, disk("never", ""))
}

// testMark overwrites all annotations through another door, as a PUT does.
func (h *house) testMark(t *testing.T) {
	cr := h.settled(t, disk("mark", "1Mi"))
	marked := func() bool {
		remote, err := h.disks.Get(t.Context(), key("mark"))
		check(t, err)
		return remote.GetMetadata().GetAnnotations()["orlop.dev/mirrored"] == string(cr.GetUID())
	}
	poll(t, "the service's object is marked", marked)
	_, err := h.disks.Update(t.Context(), remoteDisk("mark", "1Mi"), resource.UpdateOptions{})
	check(t, err)
	poll(t, "the service's object is marked again", marked)
}

func (h *house) testOwners(t *testing.T) {
	owner := h.settled(t, disk("owner", "1Mi"))
	down := h.settled(t, address("down", owner))
	remoteOwner, err := h.disks.Get(t.Context(), key("owner"))
	check(t, err)
	remote, err := h.addresses.Get(t.Context(), key("down"))
	check(t, err)
	if got := remote.GetMetadata().GetOwnerReferences(); len(got) != 1 || got[0].GetUid() != remoteOwner.GetMetadata().GetUid() {
		t.Errorf("the service's object is owned by %v", got)
	}

	made := &networkv1.VirtualMachineIPAddress{
		Metadata: &metav1.ObjectMeta{Namespace: namespace, Name: "up", OwnerReferences: []*metav1.OwnerReference{{
			ApiVersion: owner.GetAPIVersion(), Kind: owner.GetKind(), Name: "owner", Uid: remoteOwner.GetMetadata().GetUid(),
		}}},
		Spec: &networkv1.VirtualMachineIPAddressSpec{Type: networkv1.IPAddressType_Auto},
	}
	_, err = h.addresses.Create(t.Context(), made, resource.WriteOptions{})
	check(t, err)
	up := h.agreed(t, newCR("VirtualMachineIPAddress", "up", nil))
	if got := up.GetOwnerReferences(); len(got) != 1 || got[0].UID != owner.GetUID() {
		t.Errorf("the custom resource is owned by %v", got)
	}

	check(t, h.kube.Delete(t.Context(), owner))
	h.eventuallyGone(t, owner)
	for _, dependent := range []*unstructured.Unstructured{up, down} {
		h.eventuallyGone(t, dependent)
		if _, err := h.addresses.Get(t.Context(), key(dependent.GetName())); err == nil {
			t.Errorf("the service still has %s", dependent.GetName())
		}
	}
}

func (h *house) testDisowned(t *testing.T) {
	owner := h.settled(t, disk("former", "1Mi"))
	free := h.settled(t, address("free", owner))
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"ownerReferences":null}}`))
	check(t, h.kube.Patch(t.Context(), free, patch))
	check(t, h.kube.Delete(t.Context(), owner))
	h.eventuallyGone(t, owner)
	// One that is still owned shows that the collector came by.
	other := h.settled(t, disk("other", "1Mi"))
	still := h.settled(t, address("still", other))
	check(t, h.kube.Delete(t.Context(), other))
	h.eventuallyGone(t, still)
	if present := h.get(t, free); present.GetDeletionTimestamp() != nil {
		t.Error("what has no owner any more was deleted with it")
	}
	remote, err := h.addresses.Get(t.Context(), key("free"))
	check(t, err)
	if remote.GetMetadata().GetDeletionTimestamp() != nil || len(remote.GetMetadata().GetOwnerReferences()) != 0 {
		t.Errorf("the service's object is %v", remote)
	}
}

func (h *house) testFacadeAway(t *testing.T, stop func()) func() {
	labelled := h.settled(t, disk("labelled-away", "1Mi"))
	grown := h.settled(t, disk("grown-away", "1Mi"))
	deletedHere := h.settled(t, disk("deleted-here", "1Mi"))
	deletedThere := h.settled(t, disk("deleted-there", "1Mi"))
	stop()

	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"while":"away"}}}`))
	check(t, h.kube.Patch(t.Context(), labelled, patch))
	check(t, h.kube.Delete(t.Context(), deletedHere))
	_, err := h.disks.Update(t.Context(), remoteDisk("grown-away", "2Mi"), resource.UpdateOptions{Mask: []string{"spec"}})
	check(t, err)
	_, err = h.disks.Delete(t.Context(), key("deleted-there"), resource.DeleteOptions{})
	check(t, err)
	_, err = h.disks.Create(t.Context(), remoteDisk("made-there", "1Mi"), resource.WriteOptions{})
	check(t, err)
	if h.get(t, deletedHere).GetDeletionTimestamp() == nil || !h.serviceHas(t, "deleted-here") {
		t.Error("the custom resource should wait for the facade")
	}

	stop = h.startFacade(t)
	h.eventually(t, grown, "has the size", func(cr *unstructured.Unstructured) bool {
		return text(cr, "spec", "persistentVolumeClaim", "size") == "2Mi"
	})
	h.eventuallyGone(t, deletedHere)
	h.eventuallyGone(t, deletedThere)
	h.agreed(t, disk("made-there", ""))
	poll(t, "the label went down", func() bool {
		remote, err := h.disks.Get(t.Context(), key("labelled-away"))
		return err == nil && remote.GetMetadata().GetLabels()["while"] == "away"
	})
	return stop
}

// testFacadeCut ends the facade while it works on several objects, wherever it
// is with each. What it left half done must come right, and nothing be made
// twice or deleted.
func (h *house) testFacadeCut(t *testing.T, stop func()) func() {
	const rounds, each = 4, 5
	var all []*unstructured.Unstructured
	for round := range rounds {
		for i := range each {
			cr := disk(fmt.Sprintf("cut-%d-%d", round, i), "1Mi")
			check(t, h.byFacade.Create(t.Context(), cr)) // admission may be down
			all = append(all, cr)
			_, err := h.disks.Create(t.Context(), remoteDisk(fmt.Sprintf("cut-up-%d-%d", round, i), "1Mi"), resource.WriteOptions{})
			check(t, err)
			all = append(all, disk(fmt.Sprintf("cut-up-%d-%d", round, i), "1Mi"))
		}
		h.agreed(t, all[round*each*2]) // the others are anywhere by now
		stop()
		stop = h.startFacade(t)
	}
	for _, cr := range all {
		after := h.agreed(t, cr)
		if cr.GetUID() != "" && after.GetUID() != cr.GetUID() || after.GetDeletionTimestamp() != nil {
			t.Errorf("%s was deleted", cr.GetName())
		}
		poll(t, cr.GetName()+" is marked as the custom resource's twin", func() bool {
			remote, err := h.disks.Get(t.Context(), key(cr.GetName()))
			check(t, err)
			return remote.GetMetadata().GetAnnotations()["orlop.dev/mirrored"] == string(after.GetUID())
		})
	}
	return stop
}

func (h *house) testServiceAway(t *testing.T, stop func()) func() {
	kept, gone := h.settled(t, disk("kept", "1Mi")), h.settled(t, disk("deleted-away", "1Mi"))
	stop()
	h.get(t, kept)
	check(t, h.kube.Delete(t.Context(), gone))
	err := h.kube.Create(t.Context(), disk("too-soon", "1Mi"))
	if err == nil || !strings.Contains(err.Error(), "the service can't be asked now, try again") {
		t.Errorf("creating says %v", err)
	}
	if h.get(t, gone).GetDeletionTimestamp() == nil {
		t.Error("deletion should be accepted")
	}
	stop = h.startService(t, "/first")
	h.eventuallyGone(t, gone)
	if h.serviceHas(t, "deleted-away") || !h.serviceHas(t, "kept") {
		t.Error("the service should have one of the two")
	}
	return stop
}

func (h *house) testLostStore(t *testing.T, stop func()) {
	names := []string{"kept", "quiet", "made-there"}
	before := map[string]*unstructured.Unstructured{}
	for _, name := range names {
		before[name] = h.get(t, disk(name, ""))
	}
	remote, err := h.disks.Get(t.Context(), key("kept"))
	check(t, err)
	stop()
	h.startService(t, "/second")
	for _, name := range names {
		poll(t, name+" is made again", func() bool { return h.serviceHas(t, name) })
		after := h.eventually(t, disk(name, ""), "is agreed on again", func(cr *unstructured.Unstructured) bool {
			return cr.GetAnnotations()["orlop.dev/synced"] != before[name].GetAnnotations()["orlop.dev/synced"]
		})
		if after.GetUID() != before[name].GetUID() || after.GetDeletionTimestamp() != nil {
			t.Errorf("%s was deleted", name)
		}
	}
	again, err := h.disks.Get(t.Context(), key("kept"))
	check(t, err)
	if again.GetMetadata().GetUid() == remote.GetMetadata().GetUid() {
		t.Error("that was no lost store")
	}
}
