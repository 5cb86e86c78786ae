// Package network is the network service: IP and MAC addresses of VMs, their
// leases, and the way to the guests that have them.
//
// It wires the rules (internal/reservation, internal/lease) to this machine's
// network (internal/port, over internal/fabric or internal/usernet), the store
// and the VM service. It must not know what a VM is, beyond its being there:
// which one uses an address says so by a claim.
package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"orlop.dev/gen/crd"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
	"orlop.dev/kit/serve"
	"orlop.dev/services/network/internal/address"
	"orlop.dev/services/network/internal/fabric"
	"orlop.dev/services/network/internal/lease"
	"orlop.dev/services/network/internal/port"
	"orlop.dev/services/network/internal/reservation"
	"orlop.dev/services/network/internal/tunnel"
)

var (
	ipNames = names{
		loop: "virtualmachineipaddress", leaseLoop: "virtualmachineipaddresslease",
		finalizer: "virtualization.deckhouse.io/vmip-cleanup", leaseFinalizer: "virtualization.deckhouse.io/vmipl-cleanup",
	}
	macNames = names{
		loop: "virtualmachinemacaddress", leaseLoop: "virtualmachinemacaddresslease",
		finalizer: "virtualization.deckhouse.io/vmmac-cleanup", leaseFinalizer: "virtualization.deckhouse.io/vmmacl-cleanup",
	}
)

type (
	ipAddress  = *networkv1.VirtualMachineIPAddress
	ipLease    = *networkv1.VirtualMachineIPAddressLease
	macAddress = *networkv1.VirtualMachineMACAddress
	macLease   = *networkv1.VirtualMachineMACAddressLease
)

// Service is the network service.
type Service struct {
	networkv1.UnimplementedVirtualMachineIPAddressServiceServer
	networkv1.UnimplementedVirtualMachineMACAddressServiceServer
	networkv1.UnimplementedAddressServiceServer

	ips  *family[netip.Addr, ipAddress, ipLease]
	macs *family[address.MAC, macAddress, macLease]

	network  chosen
	gateway  netip.Addr
	board    *port.Board
	tunnel   *tunnel.Tunnel
	machines *resource.Mirror[*vmv1.VirtualMachine] // nil without the VM service
	leader   *reconcile.Election
	log      *slog.Logger
}

// New wires the service and finds out how guests can be connected. Nothing else
// happens until its Part runs.
func New(opts Options) (*Service, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	pool, err := address.ParsePool(opts.CIDRs, opts.Gateways)
	if err != nil {
		return nil, err
	}
	s := &Service{log: opts.Logger}
	if s.network, err = choose(opts, pool); err != nil {
		return nil, err
	}
	if s.network.mode == fabric.Tap {
		s.gateway = pool.Gateway4()
	}
	if err := s.wire(opts, pool); err != nil {
		return nil, err
	}
	s.tunnel = &tunnel.Tunnel{Dial: s.network.DialContext, Find: s.find}
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	s.leader = &reconcile.Election{
		Client: opts.Etcd, Key: opts.Prefix + "/election", Identity: fmt.Sprintf("%s/%d", host, os.Getpid()), Logger: opts.Logger,
	}
	return s, nil
}

func (s *Service) wire(opts Options, pool *address.Pool) error {
	var err error
	s.ips, err = newFamily(opts, makeup[netip.Addr, ipAddress, ipLease]{
		names: ipNames, kind: reservation.IPKind(), form: lease.IPForm(), space: lease.IPs(pool),
		object: &networkv1.VirtualMachineIPAddress{}, lease: &networkv1.VirtualMachineIPAddressLease{},
	})
	if err != nil {
		return err
	}
	s.macs, err = newFamily(opts, makeup[address.MAC, macAddress, macLease]{
		names: macNames, kind: reservation.MACKind(), form: lease.MACForm(), space: lease.MACs(s.network.hardware...),
		object: &networkv1.VirtualMachineMACAddress{}, lease: &networkv1.VirtualMachineMACAddressLease{},
	})
	if err != nil {
		return err
	}
	s.board = &port.Board{Network: s.network, Addresses: s.ips.addresses, Cards: s, Pool: pool, Mode: s.network.mode}
	s.ips.rules.Ports = s.board
	s.macs.rules.Seed = s.seed
	owners, err := s.followMachines(opts)
	s.ips.wire(opts, ipNames, owners)
	s.macs.wire(opts, macNames, owners)
	return err
}

// collection is the objects of one kind, and the rules of its schema.
func collection[T resource.Object](opts Options, message proto.Message, finalizer string) (*resource.Collection[T], *schema.Schema, error) {
	k := kind.Must(message)
	rules, err := schema.Find(crd.FS, k)
	if err != nil {
		return nil, nil, err
	}
	c, err := resource.NewCollection[T](opts.Etcd, opts.Prefix, k, resource.Options{
		Finalizers: []string{finalizer}, Schema: rules, Logger: opts.Logger, Now: opts.now,
	})
	return c, rules, err
}

// Part is the service as a piece of a process.
func (s *Service) Part() serve.Part {
	return serve.Part{Name: "network", Register: s.register, Ready: s.ready, Run: s.run}
}

// Gateway is this machine's IPv4 address on the guests' network; the zero Addr
// where it has none, as in user mode.
func (s *Service) Gateway() netip.Addr { return s.gateway }

// DialContext connects to a guest's literal address and port, however guests
// are connected. It may be called once the Part runs.
func (s *Service) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return s.network.DialContext(ctx, network, address)
}

// Mode is how guests are connected to this machine, Tap or User, and a sentence
// that says why and what would change it.
func (s *Service) Mode() (mode, reason string) { return string(s.network.mode), s.network.reason }

func (s *Service) register(registrar grpc.ServiceRegistrar) error {
	err := s.ips.register(registrar, &networkv1.VirtualMachineIPAddressService_ServiceDesc,
		&networkv1.VirtualMachineIPAddressLeaseService_ServiceDesc, s)
	if err != nil {
		return err
	}
	err = s.macs.register(registrar, &networkv1.VirtualMachineMACAddressService_ServiceDesc,
		&networkv1.VirtualMachineMACAddressLeaseService_ServiceDesc, s)
	if err != nil {
		return err
	}
	networkv1.RegisterAddressServiceServer(registrar, s)
	return nil
}

func (s *Service) ready(ctx context.Context) error {
	if err := s.ips.ready(ctx); err != nil {
		return err
	}
	return s.macs.ready(ctx)
}

func (s *Service) run(ctx context.Context) error {
	s.log.Info("guests' network", "mode", s.network.mode, "reason", s.network.reason)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.ips.run(ctx, s) })
	group.Go(func() error { return s.macs.run(ctx, s) })
	group.Go(func() error { return s.keepNetwork(ctx) })
	if s.machines != nil {
		group.Go(func() error { return s.machines.Run(ctx) })
	}
	group.Go(func() error { return s.leader.Run(ctx, s.work) })
	return group.Wait()
}

// work is what one replica does at a time. Each kind's rules look at the others.
func (s *Service) work(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return nil //nolint:nilerr // ctx ended
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.ips.work(ctx) })
	group.Go(func() error { return s.macs.work(ctx) })
	return group.Wait()
}
