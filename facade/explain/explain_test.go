package explain_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"orlop.dev/facade/explain"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	explainv1 "orlop.dev/gen/orlop/explain/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/serve/servetest"
)

// house has a VM that waits for its disk, which waits for its image.
type house struct {
	t        *testing.T
	machines *resource.Collection[*vmv1.VirtualMachine]
	disks    *resource.Collection[*diskv1.VirtualDisk]
	images   *resource.Collection[*imagev1.VirtualImage]
	server   *explain.Server
}

func newHouse(t *testing.T) *house {
	store := etcdtest.Start(t)
	machines, machinePart := servetest.StandIn[*vmv1.VirtualMachine](t, store, &vmv1.VirtualMachineService_ServiceDesc, nil)
	_, classPart := servetest.StandIn[*vmv1.VirtualMachineClass](t, store, &vmv1.VirtualMachineClassService_ServiceDesc, nil)
	disks, diskPart := servetest.StandIn[*diskv1.VirtualDisk](t, store, &diskv1.VirtualDiskService_ServiceDesc, &diskv1.Volume{})
	images, imagePart := servetest.StandIn[*imagev1.VirtualImage](t, store, &imagev1.VirtualImageService_ServiceDesc, &imagev1.Blob{})
	conn, _ := servetest.Host(t, machinePart, classPart, diskPart, imagePart)
	h := &house{t: t, machines: machines, disks: disks, images: images, server: &explain.Server{
		Connect: func(string) (grpc.ClientConnInterface, error) { return conn, nil },
	}}
	put(t, images, "linux", &imagev1.VirtualImageStatus{
		Phase: imagev1.ImagePhase_Provisioning, Progress: "41%", Conditions: lacks("Ready", "Provisioning"),
	}, func(*imagev1.VirtualImage) {})
	put(t, disks, "root", &diskv1.VirtualDiskStatus{
		Phase: diskv1.DiskPhase_Pending, Conditions: lacks("DatasourceReady", "ImageNotReady"),
	}, func(d *diskv1.VirtualDisk) {
		d.Spec = &diskv1.VirtualDiskSpec{DataSource: &diskv1.DiskDataSource{
			ObjectRef: &diskv1.DiskObjectRef{Kind: diskv1.DiskObjectRefKind_VirtualImage, Name: "linux"},
		}}
	})
	put(t, disks, "data", &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready, Conditions: []*metav1.Condition{
		{Type: "Ready", Status: metav1.ConditionStatus_True},
	}}, func(*diskv1.VirtualDisk) {})
	put(t, machines, "web", &vmv1.VirtualMachineStatus{
		BlockDeviceRefs: []*vmv1.BlockDeviceStatus{{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "root"}}, // once more
		Phase:           vmv1.VirtualMachinePhase_Pending, Conditions: append(lacks("BlockDevicesReady", "BlockDevicesNotReady"), lacks("AgentReady", "AgentNotReady")...),
	}, func(vm *vmv1.VirtualMachine) {
		vm.Spec = &vmv1.VirtualMachineSpec{
			VirtualMachineClassName: "none",
			BlockDeviceRefs: []*vmv1.BlockDeviceRef{
				{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "root"}, {Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "data"},
			},
		}
	})
	return h
}

func lacks(name, reason string) []*metav1.Condition {
	message := "says " + reason
	return []*metav1.Condition{{
		Type: name, Status: metav1.ConditionStatus_False, Reason: reason, Message: &message, LastTransitionTime: timestamppb.Now(),
	}}
}

func put[T resource.Object](t *testing.T, c *resource.Collection[T], name string, status proto.Message, fill func(T)) {
	t.Helper()
	object := resource.New[T](c.Kind())
	fill(object)
	meta := object.ProtoReflect().Mutable(c.Kind().Metadata).Message().Interface().(*metav1.ObjectMeta)
	meta.Namespace, meta.Name = "default", name
	_, err := c.Create(t.Context(), object)
	if err == nil {
		_, err = c.UpdateStatus(t.Context(), resource.Key{Namespace: "default", Name: name}, "", status)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// want compares a tree, a line a cause, with what it is indented by.
func (h *house) want(kind, name string, want ...string) {
	h.t.Helper()
	answer, err := h.server.Explain(h.t.Context(), &explainv1.ExplainRequest{Kind: kind, Name: name})
	if err != nil {
		h.t.Fatal(err)
	}
	if got := draw(answer.GetCause(), 0); !slices.Equal(got, want) {
		h.t.Errorf("%s %s is explained by\n%s\nwant\n%s", kind, name, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func draw(c *explainv1.Cause, depth int) []string {
	line := fmt.Sprintf("%s%s %s %s", strings.Repeat(" ", depth), c.GetKind(), c.GetName(), c.GetState())
	if c.GetProgress() != "" {
		line += " " + c.GetProgress()
	}
	if c.GetRelation() == explainv1.CauseRelation_Holder {
		line += " holder"
	}
	for _, f := range c.GetFindings() {
		line += " " + f.GetReason()
	}
	lines := []string{line}
	for _, next := range c.GetCauses() {
		lines = append(lines, draw(next, depth+1)...)
	}
	return lines
}

func TestWaitIsFollowedToItsLastCause(t *testing.T) {
	h := newHouse(t)
	h.want("vm", "web",
		"VirtualMachine web Waiting BlockDevicesNotReady",
		" VirtualMachineClass none Missing",
		" VirtualDisk root Waiting ImageNotReady",
		"  VirtualImage linux Waiting 41% Provisioning")
	h.want("VirtualDisk", "data", "VirtualDisk data Settled")
}

func TestHoldersAreNamed(t *testing.T) {
	h := newHouse(t)
	other := "Waits: VirtualDisk data is in use by VirtualMachine db"
	put(t, h.machines, "db", &vmv1.VirtualMachineStatus{Phase: vmv1.VirtualMachinePhase_Running, Conditions: []*metav1.Condition{
		{Type: "Running", Status: metav1.ConditionStatus_True},
	}}, func(*vmv1.VirtualMachine) {})
	key := resource.Key{Namespace: "default", Name: "data"}
	_, err := h.disks.AddHolder(t.Context(), key, &metav1.Holder{
		Kind: "VirtualMachine", Namespace: "default", Name: "db", Uid: "db", Active: true,
	}, func(*diskv1.VirtualDisk) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	put(t, h.machines, "second", &vmv1.VirtualMachineStatus{Phase: vmv1.VirtualMachinePhase_Pending, Conditions: []*metav1.Condition{
		{Type: "BlockDevicesReady", Status: metav1.ConditionStatus_False, Reason: "BlockDevicesNotReady", Message: &other},
	}}, func(vm *vmv1.VirtualMachine) {
		vm.Spec = &vmv1.VirtualMachineSpec{BlockDeviceRefs: []*vmv1.BlockDeviceRef{{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "data"}}}
	})
	h.want("vm", "second",
		"VirtualMachine second Waiting BlockDevicesNotReady",
		" VirtualDisk data Settled",
		"  VirtualMachine db Settled holder")
	if _, err := h.disks.Delete(t.Context(), key, resource.Preconditions{}); err != nil {
		t.Fatal(err)
	}
	h.want("vd", "data", "VirtualDisk data Terminating", " VirtualMachine db Settled holder")
}

func TestWhatIsNotThereIsToldSo(t *testing.T) {
	h := newHouse(t)
	if _, err := h.server.Explain(t.Context(), &explainv1.ExplainRequest{Kind: "vm", Name: "nobody"}); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v", err)
	}
	for _, req := range []*explainv1.ExplainRequest{{Kind: "ship", Name: "web"}, {Kind: "vm"}} {
		if _, err := h.server.Explain(t.Context(), req); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v: got %v", req, err)
		}
	}
}
