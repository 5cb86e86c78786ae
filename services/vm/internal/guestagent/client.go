// Package guestagent asks the QEMU guest agent inside a guest, over the host's
// end of its virtio-serial port.
//
// The guest is not trusted: every reply is bounded in size and time, replies to
// other requests are skipped, and text is cleaned before anyone stores it. The
// package must not know of machines or statuses, nor decide when to ask.
package guestagent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	// maxReply bounds one reply, and maxSkipped all the bytes read for one
	// request: a guest that floods its port costs this much and no more.
	maxReply   = 1 << 20
	maxSkipped = 4 << 20
	// patience bounds a request whose context has no deadline. An agent under
	// load answers within a second or so; a hung one never does.
	patience = 10 * time.Second
	// freezePatience is for a guest that first writes all that it has to write.
	freezePatience = 30 * time.Second
	// delimiter begins the reply of guest-sync-delimited, and makes the agent
	// drop half a request left by an earlier connection. JSON never contains it.
	delimiter = 0xff
)

var (
	// ErrFlood is an agent that sent more than any honest reply.
	ErrFlood = errors.New("guest agent: too many bytes")
	// ErrClosed is a Client after Close.
	ErrClosed = errors.New("guest agent: client closed")
)

// Error is a request that the agent refused.
type Error struct {
	Command string
	Class   string
	Desc    string // the guest's words, cleaned and cut
}

func (e *Error) Error() string {
	return fmt.Sprintf("guest agent: %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// Dial opens the host's end of the port.
type Dial func(context.Context) (net.Conn, error)

// Client holds at most one connection: QEMU serves one at a time, and an agent
// whose host end comes and goes wakes up for nothing. It connects at the first
// request and again after a failure, each time with a sync, so that stale
// replies of an earlier connection are never taken for answers. Requests queue.
type Client struct {
	dial  Dial
	turn  chan *stream    // capacity 1: holding the value is having the turn
	alive context.Context // until Close
	close context.CancelCauseFunc
}

// stream is one connection, or none yet.
type stream struct {
	conn   net.Conn // nil: dial first
	reader *bufio.Reader
}

// New makes a Client; nothing is dialed yet.
func New(dial Dial) *Client {
	c := &Client{dial: dial, turn: make(chan *stream, 1)}
	c.alive, c.close = context.WithCancelCause(context.Background())
	c.turn <- &stream{}
	return c
}

// Close ends the connection, and the request in progress with ErrClosed. It may
// be repeated.
func (c *Client) Close() error {
	c.close(ErrClosed)
	s := <-c.turn
	defer func() { c.turn <- s }()
	s.drop()
	return nil
}

// execute runs one command and decodes its reply into result unless nil.
func (c *Client) execute(ctx context.Context, command string, result any) error {
	return c.executeWithin(ctx, patience, command, result)
}

func (c *Client) executeWithin(ctx context.Context, limit time.Duration, command string, result any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return c.inTurn(ctx, command, func(s *stream) error { return s.ask(command, nil, result) })
}

// tell sends a command that has no reply.
func (c *Client) tell(ctx context.Context, command string, arguments any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.inTurn(ctx, command, func(s *stream) error {
		return s.send(request{Execute: command, Arguments: arguments, ID: random()})
	})
}

// inTurn waits for the connection, makes it usable and runs the exchange. Any
// failure but a refusal drops the connection: what is left in it belongs to a
// request that nobody waits for.
func (c *Client) inTurn(ctx context.Context, command string, exchange func(*stream) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer context.AfterFunc(c.alive, func() { end(ErrClosed) })()
	defer end(nil)
	if c.alive.Err() != nil {
		return fmt.Errorf("guest agent: %s: %w", command, ErrClosed)
	}
	var s *stream
	select {
	case s = <-c.turn:
	case <-ctx.Done():
		return fmt.Errorf("guest agent: %s: %w", command, context.Cause(ctx))
	}
	defer func() { c.turn <- s }()
	err := c.connected(ctx, s, exchange)
	var refusal *Error
	if err != nil && !errors.As(err, &refusal) {
		s.drop()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("guest agent: %s: %w", command, err)
	}
	return err
}

// connected runs the exchange on a synced connection, under ctx's deadline.
func (c *Client) connected(ctx context.Context, s *stream, exchange func(*stream) error) error {
	fresh := s.conn == nil
	if fresh {
		conn, err := c.dial(ctx)
		if err != nil {
			return err
		}
		s.conn, s.reader = conn, bufio.NewReaderSize(conn, 16<<10)
	}
	conn := s.conn
	// The context's end must wake a blocked read or write.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	var err error
	if fresh {
		err = s.sync()
	}
	if err == nil {
		err = exchange(s)
	}
	if !stop() {
		// The wake-up ran or is running: its deadline would hit a later request.
		s.drop()
	}
	return err
}

func (s *stream) drop() {
	if s.conn != nil {
		_ = s.conn.Close()
	}
	s.conn, s.reader = nil, nil
}
