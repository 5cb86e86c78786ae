package publish

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// doors are the listeners that are open. They are one goroutine's.
type doors struct {
	open   map[netip.AddrPort]*door
	wanted map[netip.AddrPort]bool // since begin
}

// A door is one of them.
type door struct {
	leads string // where to, for telling doors apart
	stop  context.CancelFunc
	ended sync.WaitGroup
}

func newDoors() *doors { return &doors{open: map[netip.AddrPort]*door{}} }

// begin starts a round, in which each door that is to stay is ensured.
func (d *doors) begin() { d.wanted = map[netip.AddrPort]bool{} }

// ensure opens a door unless it is open and leads to the same. serve takes what
// comes until its context ends, and closes the listener.
func (d *doors) ensure(at netip.AddrPort, leads string, serve func(context.Context, net.Listener)) error {
	if present := d.open[at]; present != nil {
		if present.leads == leads {
			d.wanted[at] = true
			return nil
		}
		if d.wanted[at] {
			return syscall.EADDRINUSE // another one's, of this round
		}
		d.close1(at)
	}
	listener, err := net.Listen("tcp", at.String())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background()) // it ends in close1
	opened := &door{leads: leads, stop: cancel}
	opened.ended.Go(func() { serve(ctx, listener) })
	d.open[at], d.wanted[at] = opened, true
	return nil
}

// closeOthers ends a round: doors that nobody wanted are closed.
func (d *doors) closeOthers() {
	for at := range d.open {
		if !d.wanted[at] {
			d.close1(at)
		}
	}
}

func (d *doors) close1(at netip.AddrPort) {
	d.open[at].stop()
	d.open[at].ended.Wait()
	delete(d.open, at)
}

func (d *doors) close() {
	for at := range d.open {
		d.close1(at)
	}
}

func isTaken(err error) bool     { return errors.Is(err, syscall.EADDRINUSE) }
func isForbidden(err error) bool { return errors.Is(err, syscall.EACCES) }
func isForeign(err error) bool   { return errors.Is(err, syscall.EADDRNOTAVAIL) }
