package vm_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

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
)

// Variables that make this program a vm service: where its store is, and the
// folder with its sockets and guests.
const (
	storeVariable  = "VM_TEST_ETCD"
	folderVariable = "VM_TEST_DIR"

	peersSocket   = "peers.sock"
	serviceSocket = "vm.sock"
)

// serveAlone runs the service until its input ends. Each line of that is answered
// by the processor time, in microseconds, that the process has taken.
func serveAlone(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	store, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Getenv(storeVariable)}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	dir := os.Getenv(folderVariable)
	peers, err := dialSocket(filepath.Join(dir, peersSocket))
	if err != nil {
		return err
	}
	service, err := vm.New(ctx, vm.Options{
		Etcd: store, Disks: peers, Images: peers, Networks: peers, Dir: filepath.Join(dir, "vm"),
		Nodes: []string{"node-1", "node-2"}, MilliCPU: 200_000, MemoryBytes: 64 << 30, Logger: servetest.Quiet(),
	})
	if err != nil {
		return err
	}
	if err := serveUntilReady(ctx, service.Part(), filepath.Join(dir, serviceSocket)); err != nil {
		return err
	}
	for asked := bufio.NewScanner(os.Stdin); ; {
		var usage unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
			return err
		}
		fmt.Println((usage.Utime.Nano() + usage.Stime.Nano()) / 1000)
		if !asked.Scan() {
			return asked.Err()
		}
	}
}

func serveUntilReady(ctx context.Context, part serve.Part, socket string) error {
	server := grpc.NewServer(
		grpc.UnaryInterceptor(fault.UnaryServerInterceptor), grpc.StreamInterceptor(fault.StreamServerInterceptor))
	if err := part.Register(server); err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	go func() { _ = server.Serve(listener) }() // ends with the process, as the part does
	go func() { _ = part.Run(ctx) }()
	return part.Ready(ctx)
}

func dialSocket(path string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(fault.UnaryClientInterceptor), grpc.WithStreamInterceptor(fault.StreamClientInterceptor))
}

// fleet is a vm service in a process of its own, with a disk and an address for
// each of its VMs.
type fleet struct {
	b       *testing.B
	dir     string
	conn    *grpc.ClientConn
	ask     io.Writer
	answers *bufio.Reader

	machines *resource.Client[*vmv1.VirtualMachine]
}

func newFleet(b *testing.B, size int) *fleet {
	b.Helper()
	needQEMU(b)
	dir, err := os.MkdirTemp("", "fleet") // short enough for sockets
	check(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	b.Cleanup(func() {
		endLeft(b, dir)
		removeGroups(b, filepath.Join(dir, "vm"))
	})
	f := &fleet{b: b, dir: dir}
	server := etcdtest.Server(b)
	f.servePeers(etcdtest.Client(b, server), size)
	f.start(server.Config().ListenClientUrls[0].String())
	f.conn, err = dialSocket(filepath.Join(dir, serviceSocket))
	check(b, err)
	b.Cleanup(func() { _ = f.conn.Close() })
	f.machines = servetest.ClientOf[*vmv1.VirtualMachine](b, f.conn)
	return f
}

// servePeers stands in for the services that have disks and addresses, of both
// kinds.
func (f *fleet) servePeers(store *clientv3.Client, size int) {
	f.b.Helper()
	disks, diskPart := servetest.StandInBy(f.b, store, &diskv1.VirtualDiskService_ServiceDesc, func(disk *diskv1.VirtualDisk) proto.Message {
		return &diskv1.Volume{Path: f.disk(disk.GetMetadata().GetName()), Format: "raw", VirtualBytes: 1 << 20, WantedBytes: 1 << 20}
	})
	addresses, addressPart := servetest.StandIn[*networkv1.VirtualMachineIPAddress](f.b, store, &networkv1.VirtualMachineIPAddressService_ServiceDesc,
		&networkv1.Port{MacAddress: "52:54:00:00:00:01", Mode: networkv1.PortMode_User, Address: "10.66.10.10/24", Gateway: "10.66.10.1"})
	macs, macPart := servetest.StandIn[*networkv1.VirtualMachineMACAddress](f.b, store, &networkv1.VirtualMachineMACAddressService_ServiceDesc, &networkv1.Port{})
	_, imagePart := servetest.StandIn[*imagev1.VirtualImage](f.b, store, &imagev1.VirtualImageService_ServiceDesc, &imagev1.Blob{})
	_, clusterPart := servetest.StandIn[*imagev1.ClusterVirtualImage](f.b, store, &imagev1.ClusterVirtualImageService_ServiceDesc, &imagev1.Blob{})
	listener, err := net.Listen("unix", filepath.Join(f.dir, peersSocket))
	check(f.b, err)
	servetest.Serve(f.b, listener, diskPart, addressPart, macPart, imagePart, clusterPart)
	for i := range size {
		name := guestName(i)
		writeDisk(f.b, f.disk(name))
		disk := resource.New[*diskv1.VirtualDisk](disks.Kind())
		disk.Metadata = &metav1.ObjectMeta{Namespace: "default", Name: name}
		disk.Status = &diskv1.VirtualDiskStatus{Phase: diskv1.DiskPhase_Ready, Capacity: "1Mi"}
		_, err := disks.Create(f.b.Context(), disk)
		check(f.b, err)
		address := resource.New[*networkv1.VirtualMachineIPAddress](addresses.Kind())
		address.Metadata = &metav1.ObjectMeta{Namespace: "default", Name: name}
		address.Status = &networkv1.VirtualMachineIPAddressStatus{Phase: networkv1.IPAddressPhase_Bound, Address: "10.66.10.10"}
		_, err = addresses.Create(f.b.Context(), address)
		check(f.b, err)
		mac := resource.New[*networkv1.VirtualMachineMACAddress](macs.Kind())
		mac.Metadata = &metav1.ObjectMeta{Namespace: "default", Name: name}
		mac.Status = &networkv1.VirtualMachineMACAddressStatus{Phase: networkv1.IPAddressPhase_Bound, Address: "52:54:00:00:00:01"}
		_, err = macs.Create(f.b.Context(), mac)
		check(f.b, err)
	}
}

func guestName(i int) string { return fmt.Sprintf("guest-%d", i) }

func (f *fleet) disk(name string) string { return filepath.Join(f.dir, name+".raw") }

// start runs this program as the service, and waits until it is ready.
func (f *fleet) start(store string) {
	f.b.Helper()
	program, err := os.Executable()
	check(f.b, err)
	service := exec.Command(program)
	service.Env = append(os.Environ(), storeVariable+"="+store, folderVariable+"="+f.dir)
	service.Stderr = os.Stderr
	ask, err := service.StdinPipe()
	check(f.b, err)
	answers, err := service.StdoutPipe()
	check(f.b, err)
	check(f.b, service.Start())
	f.b.Cleanup(func() {
		_ = ask.Close() // which ends it
		if err := service.Wait(); err != nil {
			f.b.Errorf("the service: %v", err)
		}
	})
	f.ask, f.answers = ask, bufio.NewReader(answers)
	f.answer()
}

// taken is the processor time that the service has taken so far.
func (f *fleet) taken() time.Duration {
	f.b.Helper()
	_, err := fmt.Fprintln(f.ask)
	check(f.b, err)
	return f.answer()
}

func (f *fleet) answer() time.Duration {
	f.b.Helper()
	line, err := f.answers.ReadString('\n')
	check(f.b, err)
	microseconds, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	check(f.b, err)
	return time.Duration(microseconds) * time.Microsecond
}
