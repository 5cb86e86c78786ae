package network

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"time"

	"orlop.dev/services/network/internal/address"
	"orlop.dev/services/network/internal/fabric"
	"orlop.dev/services/network/internal/port"
	"orlop.dev/services/network/internal/usernet"
)

const (
	// ensureEvery is how long damage to the guests' network may last.
	ensureEvery = 30 * time.Second
	// ensureAgain is how long to wait after a failure.
	ensureAgain = 3 * time.Second

	forwardsFile = "forwards.json"
)

// guestNetwork is where guests are plugged in, and how they are reached.
type guestNetwork interface {
	port.Network
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	Close() error
}

// chosen is the guests' network of this machine, and why it is this one.
type chosen struct {
	guestNetwork
	mode   fabric.Mode
	reason string
	// hardware are the MACs that this machine has on it.
	hardware []address.MAC
}

// choose decides how guests are connected.
func choose(opts Options, pool *address.Pool) (chosen, error) {
	var c chosen
	switch opts.Mode {
	case ModeTap:
		c.mode, c.reason = fabric.Tap, "Guests are on a bridge, as configured."
	case ModeUser:
		c.mode, c.reason = fabric.User, "Guests use QEMU's user-mode network, as configured, and are reached through forwarded ports."
	default:
		c.mode, c.reason = fabric.Probe()
	}
	var err error
	if c.mode == fabric.Tap {
		var bridged *fabric.Fabric
		if bridged, err = newFabric(opts, pool); err != nil {
			return c, err
		}
		c.guestNetwork, c.hardware = bridged, []address.MAC{bridged.BridgeMAC()}
	} else {
		c.guestNetwork, err = newUserNetwork(opts, pool)
	}
	return c, err
}

func newFabric(opts Options, pool *address.Pool) (*fabric.Fabric, error) {
	servers, err := opts.nameServers()
	if err != nil {
		return nil, err
	}
	return fabric.New(fabric.Options{
		Namespace: opts.Namespace, Pool: pool, DNS: servers, Virtual: opts.Virtual, Log: opts.Logger,
	})
}

func newUserNetwork(opts Options, pool *address.Pool) (guestNetwork, error) {
	if err := os.MkdirAll(opts.StateDir, 0o700); err != nil {
		return nil, err
	}
	return usernet.New(usernet.Options{Pool: pool, State: filepath.Join(opts.StateDir, forwardsFile)})
}

// keepNetwork makes the guests' network, repairs it, and takes away what nobody
// uses, until ctx ends. Guests stay as they are then.
func (s *Service) keepNetwork(ctx context.Context) error {
	for ctx.Err() == nil {
		wait := ensureEvery
		if err := s.ensureNetwork(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("the guests' network is not right", "error", err)
			wait = ensureAgain
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
	return s.network.Close()
}

func (s *Service) ensureNetwork(ctx context.Context) error {
	if err := s.network.Ensure(ctx); err != nil {
		return err
	}
	if err := s.ready(ctx); err != nil {
		return err
	}
	return s.board.Prune(ctx, func() ([]ipAddress, error) { return s.ips.addresses.All("", nil) })
}
