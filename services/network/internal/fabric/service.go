package fabric

import (
	"context"
	"errors"
	"net"
	"time"

	"orlop.dev/services/network/internal/dhcp"
)

// leaseDuration is what guests are told. The address is theirs for longer; they ask again at half the time, and keep it
// while the process is down for no longer than the other half.
const leaseDuration = 24 * time.Hour

// A service is the running DHCP server.
type service struct {
	device int // index of the bridge that its socket is bound to
	stop   context.CancelFunc
	done   chan struct{} // closed when it has ended
	err    error         // why; read after done
}

// ensureService starts the DHCP server, anew if it has failed or if the bridge is not the one that it started on.
func (f *Fabric) ensureService(ctx context.Context, device int) error {
	if f.service != nil && f.service.device == device && f.service.running() {
		return nil
	}
	if err := f.stopService(); err != nil {
		f.log.Warn("DHCP server had failed and is started again", "error", err)
	}
	var conn net.PacketConn
	err := f.space.Do(func() (err error) {
		conn, err = dhcp.Listen(ctx, f.options.Bridge)
		return err
	})
	if err != nil {
		return err
	}
	// The server lives until Close, not until the context of the call that started it ends.
	lifetime, stop := context.WithCancel(context.WithoutCancel(ctx))
	started := &service{device: device, stop: stop, done: make(chan struct{})}
	server := dhcp.New(conn, f.leaseOf, f.log)
	go func() {
		defer close(started.done)
		started.err = server.Serve(lifetime)
	}()
	f.service = started
	return nil
}

// stopService waits until the server has ended, and returns why it had ended before, if it had.
func (f *Fabric) stopService() error {
	if f.service == nil {
		return nil
	}
	f.service.stop()
	<-f.service.done
	err := f.service.err
	f.service = nil
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *service) running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// leaseOf is what DHCP tells the guest with a MAC.
func (f *Fabric) leaseOf(mac net.HardwareAddr) (dhcp.Lease, bool) {
	a, known := f.register.byMAC(mac)
	if !known || !a.Address.Is4() {
		return dhcp.Lease{}, false
	}
	subnet, found := f.options.Pool.Lookup(a.Address)
	if !found {
		return dhcp.Lease{}, false // Attached by a process with another pool.
	}
	return dhcp.Lease{
		Address: subnet.Interface(a.Address), Gateway: subnet.Gateway, DNS: f.options.DNS,
		Hostname: a.Hostname, MTU: f.options.MTU, Duration: leaseDuration,
	}, true
}
