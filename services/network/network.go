// Package network is the network service: IP addresses of VMs, their leases, and
// the way to the guests that have them.
//
// It wires the rules (internal/ipaddress, internal/lease) to this machine's
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
	"orlop.dev/services/network/internal/ipaddress"
	"orlop.dev/services/network/internal/lease"
	"orlop.dev/services/network/internal/port"
	"orlop.dev/services/network/internal/tunnel"
)

const (
	addressFinalizer = "virtualization.deckhouse.io/vmip-cleanup"
	leaseFinalizer   = "virtualization.deckhouse.io/vmipl-cleanup"
)

type (
	ipAddress = *networkv1.VirtualMachineIPAddress
	ipLease   = *networkv1.VirtualMachineIPAddressLease
)

// Service is the network service.
type Service struct {
	networkv1.UnimplementedVirtualMachineIPAddressServiceServer

	addresses      *resource.Collection[ipAddress]
	addressMethods *resource.Methods[ipAddress]
	addressLoop    *reconcile.Loop[ipAddress]
	rules          *ipaddress.Reconciler

	leases       *resource.Collection[ipLease]
	leaseMethods *resource.Methods[ipLease]
	leaseLoop    *reconcile.Loop[ipLease]
	book         *lease.Book

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
	if err := s.wireLeases(opts, pool); err != nil {
		return nil, err
	}
	if err := s.wireAddresses(opts, pool); err != nil {
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

func (s *Service) wireLeases(opts Options, pool *address.Pool) error {
	leases, rules, err := collection[ipLease](opts, &networkv1.VirtualMachineIPAddressLease{}, leaseFinalizer)
	if err != nil {
		return err
	}
	s.leases = leases
	s.book = lease.NewBook(leases, pool, lease.Uptime)
	s.leaseMethods, err = resource.NewMethods(resource.MethodOptions[ipLease]{
		Collection: leases, Schema: rules, Admit: s.book.Admit,
	})
	s.leaseLoop = reconcile.New(leases, &lease.Reconciler{Book: s.book, Claimant: s.claimant, Now: opts.now}, reconcile.Options{
		Name: "virtualmachineipaddresslease", Finalizer: leaseFinalizer, Logger: opts.Logger,
	})
	return err
}

func (s *Service) wireAddresses(opts Options, pool *address.Pool) error {
	addresses, rules, err := collection[ipAddress](opts, &networkv1.VirtualMachineIPAddress{}, addressFinalizer)
	if err != nil {
		return err
	}
	s.addresses = addresses
	s.board = &port.Board{Network: s.network, Addresses: addresses, Pool: pool, Mode: s.network.mode}
	s.addressMethods, err = resource.NewMethods(resource.MethodOptions[ipAddress]{
		Collection: addresses, Schema: rules, Admit: ipaddress.Admission{Leases: s.book}.Admit,
	})
	if err != nil {
		return err
	}
	s.rules = &ipaddress.Reconciler{Leases: s.book, Check: s.book.Check, Ports: s.board, Now: opts.now}
	reconciler, err := s.cascade(opts)
	s.addressLoop = reconcile.New(addresses, reconciler, reconcile.Options{
		Name: "virtualmachineipaddress", Finalizer: addressFinalizer, Logger: opts.Logger,
	})
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
	err := resource.Register(registrar, &networkv1.VirtualMachineIPAddressLeaseService_ServiceDesc, nil, s.leaseMethods)
	if err != nil {
		return err
	}
	return resource.Register(registrar, &networkv1.VirtualMachineIPAddressService_ServiceDesc, s, s.addressMethods)
}

func (s *Service) ready(ctx context.Context) error {
	if err := s.leases.WaitSynced(ctx); err != nil {
		return err
	}
	return s.addresses.WaitSynced(ctx)
}

func (s *Service) run(ctx context.Context) error {
	s.log.Info("guests' network", "mode", s.network.mode, "reason", s.network.reason)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.leases.Run(ctx) })
	group.Go(func() error { return s.addresses.Run(ctx) })
	group.Go(func() error { return s.followLeases(ctx) })
	group.Go(func() error { return s.keepNetwork(ctx) })
	if s.machines != nil {
		group.Go(func() error { return s.machines.Run(ctx) })
	}
	group.Go(func() error { return s.leader.Run(ctx, s.work) })
	return group.Wait()
}

// work is what one replica does at a time. Each kind's rules look at the other.
func (s *Service) work(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return nil //nolint:nilerr // ctx ended
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.leaseLoop.Run(ctx) })
	group.Go(func() error { return s.addressLoop.Run(ctx) })
	return group.Wait()
}
