package vm_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/serve"
	"orlop.dev/kit/serve/servetest"
	"orlop.dev/services/vm"
	"orlop.dev/services/vm/internal/qemu"
)

// bootSector is a guest that says "ready" on its serial line, sends back what is
// typed, and obeys its power button. Package qemu's tests have its source.
var bootSector = []byte{
	0x31, 0xc0, 0x8e, 0xd8, 0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, 0xbe,
	0x58, 0x7c, 0xba, 0xf8, 0x03, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb,
	0xf8, 0xfb, 0xf4, 0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x75, 0x1b,
	0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xed, 0xba, 0xf8, 0x03, 0xec,
	0x3c, 0x70, 0x74, 0x0b, 0x3c, 0x72, 0x74, 0x10, 0x3c, 0x63, 0x74, 0x14,
	0xee, 0xeb, 0xe5, 0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xeb, 0xd1,
	0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xeb, 0xc9, 0xba, 0x05, 0x05, 0xb0,
	0x01, 0xee, 0xeb, 0xc1, 'r', 'e', 'a', 'd', 'y', '\n', 0,
}

// house is a vm service with real guests, and stand-ins for the other services.
type house struct {
	t         *testing.T
	opts      vm.Options
	disk      string // the file that all disks have
	disks     *resource.Collection[*diskv1.VirtualDisk]
	addresses *resource.Collection[*networkv1.VirtualMachineIPAddress]
	macs      *resource.Collection[*networkv1.VirtualMachineMACAddress]

	// Of the present instance of the service:
	stop       func()
	conn       *grpc.ClientConn
	machines   *resource.Client[*vmv1.VirtualMachine]
	operations *resource.Client[*vmv1.VirtualMachineOperation]
	classes    *resource.Client[*vmv1.VirtualMachineClass]
}

func newHouse(t *testing.T) *house {
	t.Helper()
	needQEMU(t)
	disk := filepath.Join(t.TempDir(), "disk.raw")
	writeDisk(t, disk)
	t.Cleanup(func() { endLeft(t, disk) })

	h := &house{t: t, disk: disk}
	store := etcdtest.Start(t)
	disks, diskPart := servetest.StandIn[*diskv1.VirtualDisk](t, store, &diskv1.VirtualDiskService_ServiceDesc,
		&diskv1.Volume{Path: disk, Format: "raw", VirtualBytes: 1 << 20, WantedBytes: 2 << 20})
	addresses, addressPart := servetest.StandIn[*networkv1.VirtualMachineIPAddress](t, store, &networkv1.VirtualMachineIPAddressService_ServiceDesc,
		&networkv1.Port{MacAddress: "52:54:00:00:00:01", Mode: networkv1.PortMode_User, Address: "10.66.10.10/24", Gateway: "10.66.10.1"})
	macs, macPart := servetest.StandIn[*networkv1.VirtualMachineMACAddress](t, store, &networkv1.VirtualMachineMACAddressService_ServiceDesc, &networkv1.Port{})
	_, imagePart := servetest.StandIn[*imagev1.VirtualImage](t, store, &imagev1.VirtualImageService_ServiceDesc, &imagev1.Blob{})
	_, clusterPart := servetest.StandIn[*imagev1.ClusterVirtualImage](t, store, &imagev1.ClusterVirtualImageService_ServiceDesc, &imagev1.Blob{})
	allocator := serve.Part{
		Name: "addresses", Ready: func(context.Context) error { return nil },
		Run: func(ctx context.Context) error { <-ctx.Done(); return nil },
		Register: func(s grpc.ServiceRegistrar) error {
			networkv1.RegisterAddressServiceServer(s, allocator{addresses: addresses, macs: macs})
			return nil
		},
	}
	others, _ := servetest.Host(t, diskPart, addressPart, macPart, allocator, imagePart, clusterPart)
	h.disks, h.addresses, h.macs = disks, addresses, macs
	h.opts = vm.Options{
		Etcd: store, Disks: others, Images: others, Networks: others, Dir: t.TempDir(),
		Nodes: []string{"node-1", "node-2"}, MilliCPU: 8000, MemoryBytes: 8 << 30, Logger: servetest.Quiet(),
	}
	t.Cleanup(func() { removeGroups(t, h.opts.Dir) })
	h.open()
	return h
}

func needQEMU(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("runs QEMU: not in the fast run")
	}
	if _, err := exec.LookPath(qemu.DefaultBinary); err != nil {
		t.Skip("qemu-system-x86_64 is not installed: make setup installs it")
	}
}

// writeDisk makes a raw disk with the guest.
func writeDisk(t testing.TB, path string) {
	t.Helper()
	sector := make([]byte, 1<<20)
	copy(sector, bootSector)
	sector[510], sector[511] = 0x55, 0xaa
	check(t, os.WriteFile(path, sector, 0o600))
}

// endLeft ends the QEMUs with the text in their command line, which only a test
// that failed leaves.
func endLeft(t testing.TB, text string) {
	t.Helper()
	for _, left := range processes(t, text) {
		number, err := strconv.Atoi(left)
		check(t, err)
		t.Errorf("process %d is left and ended: %v", number, unix.Kill(number, unix.SIGKILL))
	}
}

// removeGroups removes the control groups of a service's guests, if it had any, as
// whoever ends the guests does.
func removeGroups(t testing.TB, dir string) {
	t.Helper()
	groups, err := os.ReadFile(filepath.Join(dir, "cgroups"))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	check(t, err)
	if err := os.Remove(strings.TrimSpace(string(groups))); !errors.Is(err, os.ErrNotExist) { // a service without guests takes it along
		check(t, err)
	}
}

// open starts an instance of the service.
func (h *house) open() {
	h.t.Helper()
	service, err := vm.New(h.t.Context(), h.opts)
	check(h.t, err)
	h.conn, h.stop = servetest.Host(h.t, service.Part())
	h.machines = servetest.ClientOf[*vmv1.VirtualMachine](h.t, h.conn)
	h.operations = servetest.ClientOf[*vmv1.VirtualMachineOperation](h.t, h.conn)
	h.classes = servetest.ClientOf[*vmv1.VirtualMachineClass](h.t, h.conn)
}

func key(name string) resource.Key { return resource.Key{Namespace: "default", Name: name} }

// addDisk makes a disk as the disk service would.
func (h *house) addDisk(name string) {
	h.t.Helper()
	disk := resource.New[*diskv1.VirtualDisk](h.disks.Kind())
	disk.Metadata = &metav1.ObjectMeta{Namespace: "default", Name: name}
	_, err := h.disks.Create(h.t.Context(), disk)
	check(h.t, err)
	_, err = h.disks.UpdateStatus(h.t.Context(), key(name), "", &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready, Capacity: "1Mi"})
	check(h.t, err)
}

// allocator makes addresses as the network service would.
type allocator struct {
	networkv1.UnimplementedAddressServiceServer
	addresses *resource.Collection[*networkv1.VirtualMachineIPAddress]
	macs      *resource.Collection[*networkv1.VirtualMachineMACAddress]
}

func (a allocator) AllocateAddresses(ctx context.Context, req *networkv1.AllocateAddressesRequest) (*networkv1.AllocateAddressesResponse, error) {
	for _, m := range req.GetMachines() {
		if ip := m.GetVirtualMachineIpAddress(); ip != nil {
			ip.Status = &networkv1.VirtualMachineIPAddressStatus{Phase: networkv1.IPAddressPhase_Bound, Address: "10.66.10.10"}
			if _, err := a.addresses.Create(ctx, ip); err != nil {
				return nil, err
			}
		}
		if mac := m.GetVirtualMachineMacAddress(); mac != nil {
			mac.Status = &networkv1.VirtualMachineMACAddressStatus{Phase: networkv1.IPAddressPhase_Bound, Address: "52:54:00:00:00:01"}
			if _, err := a.macs.Create(ctx, mac); err != nil {
				return nil, err
			}
		}
	}
	return new(networkv1.AllocateAddressesResponse), nil
}

func (h *house) create(name string) {
	h.t.Helper()
	object := &vmv1.VirtualMachine{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: &vmv1.VirtualMachineSpec{
			VirtualMachineClassName: "generic", Cpu: &vmv1.CPU{Cores: 1}, Memory: &vmv1.Memory{Size: "64Mi"},
			BlockDeviceRefs: []*vmv1.BlockDeviceRef{{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "root"}},
		},
	}
	_, err := h.machines.Create(h.t.Context(), object, resource.WriteOptions{})
	check(h.t, err)
}

func (h *house) awaitPhase(name string, phase vmv1.VirtualMachinePhase_Value) *vmv1.VirtualMachine {
	h.t.Helper()
	return servetest.Await(h.t, h.machines, key(name), "was "+phase.String(), func(vm *vmv1.VirtualMachine) bool {
		return vm.GetStatus().GetPhase() == phase
	})
}

// operate does an operation and waits for its end.
func (h *house) operate(name string, kind vmv1.OperationType_Value) {
	h.t.Helper()
	op := &vmv1.VirtualMachineOperation{
		Metadata: &metav1.ObjectMeta{Namespace: "default", GenerateName: "op-"},
		Spec:     &vmv1.VirtualMachineOperationSpec{VirtualMachineName: name, Type: kind},
	}
	made, err := h.operations.Create(h.t.Context(), op, resource.WriteOptions{})
	check(h.t, err)
	ended := servetest.Await(h.t, h.operations, resource.KeyOf(made), "ended", func(op *vmv1.VirtualMachineOperation) bool {
		return op.GetStatus().GetPhase() == vmv1.OperationPhase_Completed || op.GetStatus().GetPhase() == vmv1.OperationPhase_Failed
	})
	if ended.GetStatus().GetPhase() != vmv1.OperationPhase_Completed {
		h.t.Fatalf("operation %s: %v", kind, ended.GetStatus())
	}
}

func (h *house) attach(name string) grpc.BidiStreamingClient[vmv1.AttachConsoleRequest, vmv1.AttachConsoleResponse] {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), servetest.Patience)
	h.t.Cleanup(cancel)
	stream, err := vmv1.NewVirtualMachineServiceClient(h.conn).AttachConsole(ctx)
	check(h.t, err)
	check(h.t, stream.Send(&vmv1.AttachConsoleRequest{Namespace: "default", Name: name}))
	return stream
}

func read(t *testing.T, stream grpc.BidiStreamingClient[vmv1.AttachConsoleRequest, vmv1.AttachConsoleResponse], until string) {
	t.Helper()
	var output []byte
	for !bytes.Contains(output, []byte(until)) {
		response, err := stream.Recv()
		if err != nil {
			t.Fatalf("the console ended: %v; it said %q", err, output)
		}
		output = append(output, response.GetOutput()...)
	}
}

// processes lists the QEMUs whose command line has the text.
func processes(t testing.TB, text string) []string {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	check(t, err)
	var found []string
	for _, line := range lines {
		if content, err := os.ReadFile(line); err == nil && bytes.Contains(content, []byte(text)) && bytes.Contains(content, []byte("qemu-system")) {
			found = append(found, strings.Split(line, "/")[2])
		}
	}
	return found
}

func TestGuestOutlivesTheServiceAndObeysTheNextOne(t *testing.T) {
	h := newHouse(t)
	h.addDisk("root")
	h.create("web")
	running := h.awaitPhase("web", vmv1.VirtualMachinePhase_Running)
	uid := running.GetMetadata().GetUid()
	if status := running.GetStatus(); status.GetIpAddress() != "10.66.10.10" || status.GetNodeName() == "" {
		t.Errorf("status is %v", status)
	}
	console := h.attach("web")
	read(t, console, "ready")
	check(t, console.Send(&vmv1.AttachConsoleRequest{Input: []byte("hello")}))
	read(t, console, "hello")
	check(t, console.CloseSend())
	if err := drain(console); !errors.Is(err, io.EOF) {
		t.Errorf("a console that was left ends with %v", err)
	}
	before := processes(t, uid)
	if len(before) != 1 {
		t.Fatalf("%d processes run the guest", len(before))
	}

	h.stop()
	h.open()
	h.awaitPhase("web", vmv1.VirtualMachinePhase_Running)
	console = h.attach("web")
	check(t, console.Send(&vmv1.AttachConsoleRequest{Input: []byte("again")}))
	read(t, console, "again")
	if after := processes(t, uid); len(after) != 1 || after[0] != before[0] {
		t.Errorf("process %v was found as %v", before, after)
	}

	h.operate("web", vmv1.OperationType_Restart)
	if err := drain(console); !fault.Is(err, fault.NotReady) {
		t.Errorf("the console of the old instance ends with %v", err)
	}
	if after := processes(t, uid); len(after) != 1 || after[0] == before[0] {
		t.Errorf("after a restart %v runs, before it %v", after, before)
	}
	h.operate("web", vmv1.OperationType_Stop)
	h.awaitPhase("web", vmv1.VirtualMachinePhase_Stopped)
	h.wantHolders(false)
	if left := processes(t, uid); len(left) != 0 {
		t.Errorf("a stopped VM has processes %v", left)
	}
	h.operate("web", vmv1.OperationType_Start)

	_, err := h.machines.Delete(t.Context(), key("web"), resource.DeleteOptions{})
	check(t, err)
	servetest.AwaitGone(t, h.machines, key("web"))
	if left := processes(t, uid); len(left) != 0 {
		t.Errorf("a deleted VM has processes %v", left)
	}
	disk, err := h.disks.Get(key("root"))
	if err != nil || len(disk.GetMetadata().GetHolders()) != 0 {
		t.Errorf("its disk: %v, %v", disk.GetMetadata(), err)
	}
}

// drain reads a console to its end.
func drain(stream grpc.BidiStreamingClient[vmv1.AttachConsoleRequest, vmv1.AttachConsoleResponse]) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

func (h *house) wantHolders(active bool) {
	h.t.Helper()
	disk, err := h.disks.Get(key("root"))
	check(h.t, err)
	holders := disk.GetMetadata().GetHolders()
	if len(holders) != 1 || holders[0].GetActive() != active {
		h.t.Errorf("holders are %v", holders)
	}
}

func TestClassesAreShippedAndKeptWhileTheyAreUsed(t *testing.T) {
	h := newHouse(t)
	generic := resource.Key{Name: "generic"}
	for _, name := range []string{"generic", "host"} {
		class := servetest.Await(t, h.classes, resource.Key{Name: name}, "is Ready", func(c *vmv1.VirtualMachineClass) bool {
			return c.GetStatus().GetPhase() == vmv1.ClassPhase_Ready
		})
		if nodes := class.GetStatus().GetAvailableNodes(); len(nodes) != 2 {
			t.Errorf("class %s has nodes %v", name, nodes)
		}
	}
	h.create("web") // it waits for its disk
	_, err := h.classes.Delete(t.Context(), generic, resource.DeleteOptions{})
	check(t, err)
	servetest.Await(t, h.classes, generic, "is Terminating", func(c *vmv1.VirtualMachineClass) bool {
		return c.GetStatus().GetPhase() == vmv1.ClassPhase_Terminating
	})
	object, err := h.machines.Get(t.Context(), key("web"))
	check(t, err)
	object.Spec.VirtualMachineClassName = "host"
	object.Metadata.ResourceVersion = "" // its status changes all the time
	_, err = h.machines.Update(t.Context(), object, resource.UpdateOptions{Mask: []string{"spec.virtualMachineClassName"}})
	check(t, err)
	servetest.AwaitGone(t, h.classes, generic)
}

func TestNodesAreTold(t *testing.T) {
	h := newHouse(t)
	nodes, err := vmv1.NewNodeServiceClient(h.conn).ListNodes(t.Context(), &vmv1.ListNodesRequest{})
	check(t, err)
	if len(nodes.GetItems()) != 2 || nodes.GetItems()[0].GetAllocatable()["memory"] != "4Gi" || nodes.GetItems()[0].GetAccelerator() == "" {
		t.Errorf("nodes are %v", nodes)
	}
}

func TestDiskOfARunningVMGrowsAsItsServiceSays(t *testing.T) {
	h := newHouse(t)
	h.addDisk("root")
	h.create("web")
	h.awaitPhase("web", vmv1.VirtualMachinePhase_Running)

	object, err := h.disks.Get(key("root"))
	check(t, err)
	object.Spec = &diskv1.VirtualDiskSpec{PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: "2Mi"}}
	changed, err := h.disks.Update(t.Context(), object)
	check(t, err)
	_, err = h.disks.UpdateStatus(t.Context(), key("root"), "", &diskv1.VirtualDiskStatus{
		Phase: diskv1.DiskPhase_Resizing, Capacity: "1Mi",
		Conditions: []*metav1.Condition{{
			Type: "Resizing", Status: metav1.ConditionStatus_True, Reason: "InProgress",
			ObservedGeneration: changed.GetMetadata().GetGeneration(), LastTransitionTime: timestamppb.Now(), Message: new(string),
		}},
	})
	check(t, err)
	h.awaitSize(2 << 20)
	h.awaitPhase("web", vmv1.VirtualMachinePhase_Running)
	h.wantHolders(true)
	_, err = h.machines.Delete(t.Context(), key("web"), resource.DeleteOptions{})
	check(t, err)
	servetest.AwaitGone(t, h.machines, key("web"))
}

// awaitSize waits until QEMU made the disk's file that large.
func (h *house) awaitSize(bytes int64) {
	h.t.Helper()
	deadline := time.NewTimer(servetest.Patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		info, err := os.Stat(h.disk)
		check(h.t, err)
		if info.Size() == bytes {
			return
		}
		select {
		case <-deadline.C:
			h.t.Fatalf("the disk has %d bytes, not %d", info.Size(), bytes)
		case <-tick.C:
		}
	}
}
