// Package relay leads TCP connections from one place to another.
//
// It must not know what the places are: whoever dials does.
package relay

import (
	"context"
	"io"
	"net"
	"sync"
)

// Relay leads each connection that a listener accepts to another one.
type Relay struct {
	Listener net.Listener
	// Dial opens the far end of a connection. One that fails closes the near end.
	Dial func(context.Context) (net.Conn, error)
}

// Run serves until ctx ends or the listener is closed, and returns when the
// listener and all connections are closed.
func (r *Relay) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { _ = r.Listener.Close() })()
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel()
	for {
		near, err := r.Listener.Accept()
		if err != nil {
			return // it was closed
		}
		connections.Go(func() { r.lead(ctx, near) })
	}
}

func (r *Relay) lead(ctx context.Context, near net.Conn) {
	defer near.Close()
	far, err := r.Dial(ctx)
	if err != nil {
		return // whoever asked sees the connection end
	}
	Join(ctx, near, far)
}

// Join carries bytes both ways until both ends are done, one of them breaks, or
// ctx ends. It closes both. An end that has nothing more to say may still listen.
func Join(ctx context.Context, a, b net.Conn) {
	defer func() { _, _ = a.Close(), b.Close() }()
	defer context.AfterFunc(ctx, func() { _, _ = a.Close(), b.Close() })()
	var ways sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		ways.Go(func() {
			to, from := way[0], way[1]
			if _, err := io.Copy(to, from); err != nil || !halfClose(to) {
				_, _ = a.Close(), b.Close()
			}
		})
	}
	ways.Wait()
}

// halfClose tells an end that nothing more comes, if it can be told.
func halfClose(conn net.Conn) bool {
	half, can := conn.(interface{ CloseWrite() error })
	return can && half.CloseWrite() == nil
}
