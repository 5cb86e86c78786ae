package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"orlop.dev/services/network/internal/address"
)

const (
	// DefaultPrefix is where the service's objects are in etcd.
	DefaultPrefix = "/orlop/network"
	// DefaultNamespace is the network namespace of guests.
	DefaultNamespace = "orlop"
)

// DefaultCIDRs are the pool where none is configured: the guide's.
func DefaultCIDRs() []string { return []string{"10.66.10.0/24", "10.66.20.0/24"} }

// The values of Options.Mode.
const (
	ModeAuto = "auto" // taps if this process may make them
	ModeTap  = "tap"
	ModeUser = "user"
)

// Options say what the service works with.
type Options struct {
	Etcd *clientv3.Client
	// Prefix is DefaultPrefix where it is empty.
	Prefix string
	// CIDRs are the pool of guest addresses (virtualMachineCIDRs); DefaultCIDRs
	// where there is none.
	CIDRs []string
	// Gateways are addresses in the CIDRs that no guest gets; a CIDR without one
	// has its gateway beside its guests' addresses.
	Gateways []string
	// Namespace is the network namespace of guests, as in ip-netns(8); empty is
	// the one that the process is in. See DefaultNamespace.
	Namespace string
	// Mode is ModeAuto where it is empty.
	Mode string
	// StateDir remembers forwarded ports; required unless Mode is ModeTap. It is
	// made if missing.
	StateDir string
	// DNS are addresses of name servers that guests are told; usually none can be
	// reached from a namespace.
	DNS []string
	// Virtual are IPv4 networks whose addresses somebody else stands in for in
	// Namespace by rewriting packets, as kube-proxy does for Services. No CIDR may
	// overlap them.
	Virtual []netip.Prefix
	// VirtualMachines is a connection to the VM service, by which addresses of VMs
	// that are gone are deleted. Without it nothing is.
	VirtualMachines grpc.ClientConnInterface
	// Logger is slog.Default() where it is nil.
	Logger *slog.Logger

	// now is time.Now but in tests of this package.
	now func() time.Time
}

// Validate reports everything that is wrong or missing.
func (o Options) Validate() error {
	o = o.withDefaults()
	var problems []error
	if o.Etcd == nil {
		problems = append(problems, errors.New("option Etcd is required"))
	}
	if _, err := address.ParsePool(o.CIDRs, o.Gateways); err != nil {
		problems = append(problems, fmt.Errorf("CIDRs: %w", err))
	}
	if _, err := o.nameServers(); err != nil {
		problems = append(problems, err)
	}
	switch o.Mode {
	case ModeAuto, ModeUser:
		if o.StateDir == "" {
			problems = append(problems, errors.New("StateDir is required unless Mode is tap"))
		}
	case ModeTap:
	default:
		problems = append(problems, fmt.Errorf("Mode %q is none of auto, tap, user", o.Mode))
	}
	return errors.Join(problems...)
}

func (o Options) withDefaults() Options {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if len(o.CIDRs) == 0 {
		o.CIDRs = DefaultCIDRs()
	}
	if o.Mode == "" {
		o.Mode = ModeAuto
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.now == nil {
		o.now = time.Now
	}
	return o
}

func (o Options) nameServers() ([]netip.Addr, error) {
	var servers []netip.Addr
	for _, text := range o.DNS {
		server, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("DNS: %w", err)
		}
		servers = append(servers, server)
	}
	return servers, nil
}
