// Package console shares one guest's serial line among any number of viewers.
//
// It owns the single connection that QEMU's socket allows, the last output, and
// the viewers. The guest comes first: its output is read at once, whoever looks
// or doesn't, and a viewer that can't follow is cut. The package must not know
// of machines, terminals, or how viewers are reached.
package console

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// historySize is how much output a new viewer is shown, in bytes.
	historySize = 64 << 10
	// viewerBuffer is how far a viewer may fall behind, in bytes, history included.
	viewerBuffer = 256 << 10
	// inputTimeout bounds one write of input: a guest that doesn't read its
	// line soon fills it.
	inputTimeout = 2 * time.Second

	redialMin = 50 * time.Millisecond
	redialMax = time.Second
)

var (
	// ErrSlow ends a viewer that fell 256 KiB behind.
	ErrSlow = errors.New("console: viewer is too slow")
	// ErrInputBlocked is input that the guest doesn't take; part of it may
	// have been written.
	ErrInputBlocked = errors.New("console: the guest does not read its input")
	// ErrDisconnected is input while there is no line to the guest; the console
	// is reconnecting.
	ErrDisconnected = errors.New("console: not connected")
	// ErrClosed is a console that was closed.
	ErrClosed = errors.New("console: closed")
)

// Dial opens the line.
type Dial func(context.Context) (net.Conn, error)

// Console is one guest's line. Its methods may be called from several goroutines.
type Console struct {
	dial      Dial
	cancel    context.CancelFunc
	done      chan struct{} // the reader has ended
	connected chan struct{}

	input sync.Mutex // one viewer's input at a time

	mu      sync.Mutex
	conn    net.Conn // nil while not connected
	history []byte
	viewers map[*Viewer]struct{}
	closed  bool
}

// Open starts reading the line and keeps it connected until Close. It doesn't
// wait for the connection.
func Open(dial Dial) *Console {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Console{
		dial:      dial,
		cancel:    cancel,
		done:      make(chan struct{}),
		connected: make(chan struct{}),
		viewers:   map[*Viewer]struct{}{},
	}
	go c.run(ctx)
	return c
}

// Connected is closed when the line was connected for the first time: from then
// on nothing that the guest writes is lost.
func (c *Console) Connected() <-chan struct{} { return c.connected }

// Close hangs up and ends each viewer with io.EOF once it has read what it has.
// It may be repeated.
func (c *Console) Close() error {
	c.cancel()
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for v := range c.viewers {
		v.end(io.EOF)
	}
	clear(c.viewers)
	return nil
}

// Attach adds a viewer, which first reads the last output.
func (c *Console) Attach() (*Viewer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	v := newViewer(c, c.tail())
	c.viewers[v] = struct{}{}
	return v, nil
}

// Continue makes what another console showed the beginning of this one's last
// output: a guest that moves to another line has not forgotten what it said.
func (c *Console) Continue(earlier *Console) {
	earlier.mu.Lock()
	said := slices.Clone(earlier.tail())
	earlier.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history = append(said, c.history...)
}

// run owns the line until Close.
func (c *Console) run(ctx context.Context) {
	defer close(c.done)
	pause := redialMin
	for first := true; ctx.Err() == nil; {
		conn, err := c.dial(ctx)
		if err != nil {
			pause = wait(ctx, pause)
			continue
		}
		c.setConn(conn)
		if first {
			close(c.connected)
			first = false
		}
		if c.copy(ctx, conn) {
			pause = redialMin
		}
		c.setConn(nil)
		// A line that opens and ends at once is no reason to spin.
		pause = wait(ctx, pause)
	}
}

// wait pauses, and gives the next pause.
func wait(ctx context.Context, pause time.Duration) time.Duration {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return min(2*pause, redialMax)
}

// copy reads the line until it ends, and tells whether it gave anything.
func (c *Console) copy(ctx context.Context, conn net.Conn) bool {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
	}()
	useful := false
	buffer := make([]byte, 16<<10)
	for {
		n, err := conn.Read(buffer)
		if n > 0 {
			useful = true
			c.show(buffer[:n])
		}
		if err != nil {
			return useful
		}
	}
}

// show keeps the output and hands it to each viewer; none of it blocks.
func (c *Console) show(output []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Trimming only at twice the size makes the cost of a byte constant.
	if c.history = append(c.history, output...); len(c.history) > 2*historySize {
		c.history = append(c.history[:0], c.tail()...)
	}
	for v := range c.viewers {
		if !v.offer(output) {
			delete(c.viewers, v)
		}
	}
}

func (c *Console) tail() []byte { return c.history[max(0, len(c.history)-historySize):] }

func (c *Console) setConn(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
}

func (c *Console) remove(v *Viewer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.viewers, v)
}

func (c *Console) write(p []byte) (int, error) {
	c.input.Lock()
	defer c.input.Unlock()
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return 0, ErrDisconnected
	}
	if err := conn.SetWriteDeadline(time.Now().Add(inputTimeout)); err != nil {
		return 0, ErrDisconnected
	}
	n, err := conn.Write(p)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, ErrInputBlocked
	case err != nil:
		return n, ErrDisconnected
	}
	return n, nil
}
