// Package qmp speaks the QEMU Machine Protocol (QEMU's docs/interop/qmp-spec)
// over one connection: greeting, capabilities, commands with ids, events.
//
// It owns a connection and nothing else. It must not know what a machine is,
// which commands exist, or how to find QEMU again: whoever holds a Client
// dials a new one when the old one ends.
package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

const (
	// maxLine bounds one message. The longest honest reply, the QMP schema, is
	// about a quarter of a megabyte.
	maxLine = 4 << 20
	// eventBuffer is how far the reader of Events may fall behind.
	eventBuffer = 256
	// writeTimeout bounds a write when the caller's context has no deadline:
	// QEMU reads its monitor or it hangs.
	writeTimeout = 10 * time.Second
)

// Client is one connection to QEMU's monitor. Its methods may be called from
// several goroutines. A Client that failed stays failed.
type Client struct {
	conn    net.Conn
	version Version
	events  chan Event
	done    chan struct{}

	writing sync.Mutex // one whole message at a time on the wire

	mu      sync.Mutex
	err     error // why the connection ended; set before done is closed
	nextID  uint64
	waiting map[string]chan message
}

// New negotiates on an open connection, which the Client owns from here on: it
// is closed when New fails. The context bounds the negotiation, and has no hold
// on the Client afterwards.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		conn:    conn,
		events:  make(chan Event, eventBuffer),
		done:    make(chan struct{}),
		waiting: map[string]chan message{},
	}
	// A context that ends must wake the blocking read of the greeting.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	reader := newLineReader(conn)
	first, err := readGreeting(reader)
	if !stop() {
		// The deadline hit, or may be about to: this connection can't be trusted.
		_ = conn.Close()
		return nil, fmt.Errorf("qmp: no greeting: %w", context.Cause(ctx))
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	c.version = first.QMP.Version.QEMU
	go c.read(reader)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Version is what the greeting said.
func (c *Client) Version() Version { return c.version }

// Events gives asynchronous events in QEMU's order. The channel is closed when
// the connection ends. A reader that falls 256 events behind ends the
// connection with ErrOverrun: a lost event would be a wrong picture that
// nothing corrects, whereas a new connection makes its holder look again.
func (c *Client) Events() <-chan Event { return c.events }

// Done is closed when the connection has ended; Err then says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is nil while the connection lives, ErrClosed after Close or after QEMU
// hung up in good order, otherwise the failure.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection and fails what waits. It may be repeated.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	return nil
}

// Execute runs a command and waits for its reply. Arguments are encoded as the
// command's "arguments" unless nil; the reply is decoded into result unless
// nil. A refusal by QEMU is an *Error. When the context ends first, QEMU may
// still carry the command out: the late reply is dropped and the Client stays
// usable.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	id, reply, err := c.expect()
	if err != nil {
		return err
	}
	defer c.forget(id)
	request, err := json.Marshal(request{Execute: command, Arguments: arguments, ID: id})
	if err != nil {
		return fmt.Errorf("qmp: %s: %w", command, err)
	}
	if err := c.write(ctx, request); err != nil {
		return fmt.Errorf("qmp: %s: %w", command, err)
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("qmp: %s: %w", command, context.Cause(ctx))
	case <-c.done:
		return c.ended(command, reply, result)
	case m := <-reply:
		return m.decode(command, result)
	}
}

// ended prefers a reply that arrived just before the connection did: QEMU
// answers "quit" and hangs up at once.
func (c *Client) ended(command string, reply <-chan message, result any) error {
	select {
	case m := <-reply:
		return m.decode(command, result)
	default:
		return fmt.Errorf("qmp: %s: %w", command, c.Err())
	}
}

func (c *Client) expect() (string, <-chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return "", nil, c.err
	}
	c.nextID++
	id := strconv.FormatUint(c.nextID, 10)
	reply := make(chan message, 1)
	c.waiting[id] = reply
	return id, reply, nil
}

func (c *Client) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// write sends one message whole. Half a message would garble every later one,
// so a write that fails ends the connection; a context that ends before the
// write starts does not.
func (c *Client) write(ctx context.Context, line []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(writeTimeout)
	}
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		c.fail(err)
		return c.Err()
	}
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		c.fail(err)
		return c.Err()
	}
	return nil
}

// read owns the receiving side until the connection ends.
func (c *Client) read(lines *lineReader) {
	defer close(c.events)
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			err = ErrClosed
		}
		if err != nil {
			c.fail(err)
			return
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			c.fail(&ProtocolError{Reason: "not a JSON message", Line: excerpt(line)})
			return
		}
		if err := c.dispatch(m); err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *Client) dispatch(m message) error {
	if m.Event != "" {
		select {
		case c.events <- m.event():
			return nil
		default:
			return ErrOverrun
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// No one waits for the reply of a command that was given up: drop it.
	if reply, ok := c.waiting[m.ID]; ok {
		reply <- m
		delete(c.waiting, m.ID)
	}
	return nil
}

// fail records the first reason and ends the connection.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	_ = c.conn.Close()
	close(c.done)
}
