package network_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"
	network "orlop.dev/services/network"
	"orlop.dev/services/network/internal/address"
	"orlop.dev/services/network/internal/fabric"
	"orlop.dev/services/network/internal/namespace"
)

// patience bounds what must happen; no test waits for it to pass.
const patience = 20 * time.Second

// serial tells the namespaces of this process's tests apart.
var serial atomic.Int64

func uniqueName() string { return fmt.Sprintf("orlop-svc-%d-%d", os.Getpid(), serial.Add(1)) }

// tapOptions are of a service in a namespace of its own, of which nothing stays.
func tapOptions(t *testing.T, client *clientv3.Client, cidrs ...string) network.Options {
	t.Helper()
	if mode, reason := fabric.Probe(); mode != fabric.Tap {
		t.Skip("needs a bridge and taps: " + reason)
	}
	opts := network.Options{Etcd: client, CIDRs: cidrs, Namespace: uniqueName(), Mode: network.ModeTap, Logger: quiet()}
	t.Cleanup(func() {
		if err := bareFabric(t, opts).Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return opts
}

// userOptions are of a service that makes no devices.
func userOptions(t *testing.T, client *clientv3.Client, cidrs ...string) network.Options {
	return network.Options{Etcd: client, CIDRs: cidrs, Mode: network.ModeUser, StateDir: t.TempDir(), Logger: quiet()}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// bareFabric is the guests' network without the service.
func bareFabric(t *testing.T, opts network.Options) *fabric.Fabric {
	t.Helper()
	pool, err := address.ParsePool(opts.CIDRs, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fabric.New(fabric.Options{Namespace: opts.Namespace, Pool: pool, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// running is a service, as its callers see it.
type running struct {
	t         *testing.T
	service   *network.Service
	addresses *resource.Client[*networkv1.VirtualMachineIPAddress]
	leases    *resource.Client[*networkv1.VirtualMachineIPAddressLease]
	macs      *resource.Client[*networkv1.VirtualMachineMACAddress]
	macLeases *resource.Client[*networkv1.VirtualMachineMACAddressLease]
	remote    networkv1.VirtualMachineIPAddressServiceClient
	allocator networkv1.AddressServiceClient
	stop      func()
}

func start(t *testing.T, opts network.Options) *running {
	t.Helper()
	service, err := network.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	conn, stop := host(t, service.Part())
	r := &running{t: t, service: service, stop: stop}
	r.remote, r.allocator = networkv1.NewVirtualMachineIPAddressServiceClient(conn), networkv1.NewAddressServiceClient(conn)
	r.addresses = client[*networkv1.VirtualMachineIPAddress](t, conn, &networkv1.VirtualMachineIPAddress{})
	r.leases = client[*networkv1.VirtualMachineIPAddressLease](t, conn, &networkv1.VirtualMachineIPAddressLease{})
	r.macs = client[*networkv1.VirtualMachineMACAddress](t, conn, &networkv1.VirtualMachineMACAddress{})
	r.macLeases = client[*networkv1.VirtualMachineMACAddressLease](t, conn, &networkv1.VirtualMachineMACAddressLease{})
	return r
}

func client[T resource.Object](t *testing.T, conn grpc.ClientConnInterface, message T) *resource.Client[T] {
	t.Helper()
	c, err := resource.NewClient[T](conn, kind.Must(message))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// host runs a part behind a real gRPC server, until stop or the end of the test.
func host(t *testing.T, part serve.Part) (conn *grpc.ClientConn, stop func()) {
	t.Helper()
	server := grpc.NewServer(
		grpc.UnaryInterceptor(fault.UnaryServerInterceptor), grpc.StreamInterceptor(fault.StreamServerInterceptor))
	if err := part.Register(server); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- part.Run(ctx) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		server.Stop()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", part.Name, err)
		}
	}
	t.Cleanup(stop)
	if err := part.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 20)
	go func() { _ = server.Serve(listener) }() // ends with Stop
	conn, err := grpc.NewClient("passthrough:///"+part.Name,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(fault.UnaryClientInterceptor), grpc.WithStreamInterceptor(fault.StreamClientInterceptor))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, stop
}

func key(name string) resource.Key { return resource.Key{Namespace: "default", Name: name} }

func auto(name string) *networkv1.VirtualMachineIPAddress {
	return &networkv1.VirtualMachineIPAddress{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:     &networkv1.VirtualMachineIPAddressSpec{Type: networkv1.IPAddressType_Auto},
	}
}

func static(name, at string) *networkv1.VirtualMachineIPAddress {
	ip := auto(name)
	ip.Spec = &networkv1.VirtualMachineIPAddressSpec{Type: networkv1.IPAddressType_Static, StaticIp: at}
	return ip
}

func (r *running) create(ip *networkv1.VirtualMachineIPAddress) *networkv1.VirtualMachineIPAddress {
	r.t.Helper()
	created, err := r.addresses.Create(r.t.Context(), ip, resource.WriteOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return created
}

// createBound creates an address and waits until it has a lease.
func (r *running) createBound(ip *networkv1.VirtualMachineIPAddress) *networkv1.VirtualMachineIPAddress {
	r.t.Helper()
	return r.await(resource.KeyOf(r.create(ip)), "has a lease", func(ip *networkv1.VirtualMachineIPAddress) bool {
		return ip.GetStatus().GetPhase() == networkv1.IPAddressPhase_Bound
	})
}

func (r *running) delete(name string) {
	r.t.Helper()
	if _, err := r.addresses.Delete(r.t.Context(), key(name), resource.DeleteOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// await returns an address as soon as it is as wanted.
func (r *running) await(at resource.Key, what string, wanted func(*networkv1.VirtualMachineIPAddress) bool) *networkv1.VirtualMachineIPAddress {
	r.t.Helper()
	return await(r.t, r.addresses, at, what, wanted)
}

func await[T resource.Object](t *testing.T, client *resource.Client[T], at resource.Key, what string, wanted func(T) bool) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last T
	for event, err := range client.Watch(ctx, resource.WatchOptions{Namespace: at.Namespace}) {
		if err != nil {
			t.Fatalf("%s never %s: %v; it was %v", at, what, err, last)
		}
		if event.Type != resource.Bookmark && event.Type != resource.Deleted && resource.KeyOf(event.Object) == at {
			if last = event.Object; wanted(last) {
				break
			}
		}
	}
	return last
}

// awaitGone waits until an object is no more.
func awaitGone[T resource.Object](t *testing.T, client *resource.Client[T], at resource.Key) {
	t.Helper()
	eventually(t, at.String()+" is gone", func() bool {
		_, err := client.Get(t.Context(), at)
		return fault.Is(err, fault.NotFound)
	})
}

// eventually asks again and again, for what nothing tells by itself.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		case <-again.C:
		}
	}
}

// card is a MAC address; any where none is wanted.
func card(name, wanted string) *networkv1.VirtualMachineMACAddress {
	return &networkv1.VirtualMachineMACAddress{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:     &networkv1.VirtualMachineMACAddressSpec{Address: wanted},
	}
}

func (r *running) createMAC(mac *networkv1.VirtualMachineMACAddress) resource.Key {
	r.t.Helper()
	if _, err := r.macs.Create(r.t.Context(), mac, resource.WriteOptions{}); err != nil {
		r.t.Fatal(err)
	}
	return resource.KeyOf(mac)
}

// createBoundMAC creates a MAC address and waits until it has a lease.
func (r *running) createBoundMAC(mac *networkv1.VirtualMachineMACAddress) *networkv1.VirtualMachineMACAddress {
	r.t.Helper()
	return await(r.t, r.macs, r.createMAC(mac), "has a lease", func(mac *networkv1.VirtualMachineMACAddress) bool {
		return mac.GetStatus().GetPhase() == networkv1.IPAddressPhase_Bound
	})
}

func machine(name string, active bool) *metav1.Holder {
	return &metav1.Holder{Kind: "VirtualMachine", Namespace: "default", Name: name, Uid: name + "-uid", Active: active}
}

// claim claims an address as soon as the guests' network is there, and before it
// a MAC, which has the holder's name.
func (r *running) claim(name string, holder *metav1.Holder) *networkv1.Port {
	r.t.Helper()
	if _, err := r.macs.Get(r.t.Context(), key(holder.GetName())); fault.Is(err, fault.NotFound) {
		r.createBoundMAC(card(holder.GetName(), ""))
	}
	if err := r.macs.Claim(r.t.Context(), key(holder.GetName()), holder, &networkv1.Port{}); err != nil {
		r.t.Fatal(err)
	}
	var port networkv1.Port
	eventually(r.t, "claim of "+name, func() bool {
		err := r.addresses.Claim(r.t.Context(), key(name), holder, &port)
		if err != nil && !fault.Is(err, fault.Transient) {
			r.t.Fatal(err)
		}
		return err == nil
	})
	return &port
}

func (r *running) release(name, holder string) {
	r.t.Helper()
	if err := r.addresses.Release(r.t.Context(), key(name), holder+"-uid"); err != nil {
		r.t.Fatal(err)
	}
}

// guest stands in for a VM: a namespace with one card on the guests' bridge, that
// configures itself by DHCP.
func guest(t *testing.T, port *networkv1.Port) (space *namespace.Namespace, at netip.Addr) {
	t.Helper()
	mac, err := net.ParseMAC(port.GetMacAddress())
	if err != nil {
		t.Fatal(err)
	}
	name := uniqueName()
	if space, err = namespace.Named(name); err != nil {
		t.Fatal(err)
	}
	if err := space.Create(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := space.Delete(); err != nil {
			t.Error(err)
		}
	})
	cable(t, port.GetNetworkNamespace(), space, mac)
	if err := space.Do(func() (err error) { at, err = configure(t.Context(), mac); return err }); err != nil {
		t.Fatal(err)
	}
	return space, at
}

// cable connects a namespace's eth0 to the guests' bridge.
func cable(t *testing.T, path string, space *namespace.Namespace, mac net.HardwareAddr) {
	t.Helper()
	other, err := os.Open(space.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	bridged, err := namespace.Named(path[len("/run/netns/"):])
	if err != nil {
		t.Fatal(err)
	}
	err = bridged.Do(func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = fmt.Sprintf("test%d", serial.Add(1))
		plug := &netlink.Veth{LinkAttrs: attributes, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(other.Fd())}
		if err := netlink.LinkAdd(plug); err != nil {
			return err
		}
		bridge, err := netlink.LinkByName(fabric.DefaultBridge)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetMaster(plug, bridge); err != nil {
			return err
		}
		return netlink.LinkSetUp(plug)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// configure does what a guest does at its start.
func configure(ctx context.Context, mac net.HardwareAddr) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return netip.Addr{}, err
	}
	if err := netlink.LinkSetUp(eth0); err != nil {
		return netip.Addr{}, err
	}
	client, err := nclient4.New("eth0", nclient4.WithHWAddr(mac), nclient4.WithTimeout(time.Second), nclient4.WithRetry(20))
	if err != nil {
		return netip.Addr{}, err
	}
	defer client.Close()
	lease, err := client.Request(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	at, _ := netip.AddrFromSlice(lease.ACK.YourIPAddr.To4())
	own := &netlink.Addr{IPNet: &net.IPNet{IP: lease.ACK.YourIPAddr, Mask: lease.ACK.SubnetMask()}}
	return at, netlink.AddrAdd(eth0, own)
}

// serveHTTP serves one word over HTTP until the test ends.
func serveHTTP(t *testing.T, listener net.Listener, word string) {
	t.Helper()
	server := &http.Server{
		ReadHeaderTimeout: patience,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, word) }),
	}
	go func() { _ = server.Serve(listener) }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
}

// ask sends a whole request through Connect, half-closes, and returns all that
// comes back.
func (r *running) ask(machine string, port int32, request string) (string, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	stream, err := r.remote.Connect(ctx)
	if err != nil {
		return "", err
	}
	err = stream.Send(&networkv1.ConnectRequest{Namespace: "default", VirtualMachineName: machine, Port: port, Data: []byte(request)})
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if err := stream.CloseSend(); err != nil {
		return "", err
	}
	var answer []byte
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return string(answer), nil
		}
		if err != nil {
			return string(answer), err
		}
		answer = append(answer, response.GetData()...)
	}
}

// store is an etcd of the test's own.
func store(t *testing.T) *clientv3.Client { return etcdtest.Start(t) }
