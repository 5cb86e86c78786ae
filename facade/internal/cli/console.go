package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"

	"orlop.dev/facade/internal/stream"
	"orlop.dev/kit/fault"
)

const (
	escape         = 0x1d // Ctrl+]
	consoleTimeout = 5 * time.Minute
	reconnectAfter = time.Second
	inputBytes     = 1 << 10
	// hangUpTimeout bounds the wait for the services\' end of a console.
	hangUpTimeout = time.Second
)

var (
	// errLeft says that the user left the console.
	errLeft = errors.New("the user left")
	// errEnded says that the guest's end of the console went away.
	errEnded = errors.New("the console ended")
)

func newConsole(c *client) *cobra.Command {
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "console VM[.NAMESPACE]",
		Short: "Attach to a VM's serial console; Ctrl+] leaves",
		Long: `Ties the terminal to the VM's serial console. While the VM restarts it waits and
connects again. Ctrl+] leaves.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeVM(),
	}
	c.bindNamespace(command)
	command.Flags().DurationVar(&timeout, "timeout", consoleTimeout, "how long to wait for a VM that is not running")
	command.RunE = func(command *cobra.Command, args []string) error {
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		t := &console{
			conn: conn, vm: c.parse(args[0]), timeout: timeout,
			in: make(chan []byte), out: command.OutOrStdout(), note: command.ErrOrStderr(),
		}
		return t.run(command.Context())
	}
	return command
}

// console is one use of the command.
type console struct {
	conn    grpc.ClientConnInterface
	vm      objectName
	timeout time.Duration
	in      chan []byte // what is typed; closed when the user leaves
	out     io.Writer   // what the guest prints
	note    io.Writer   // what this program says

	greeted bool // since the last wait
}

func (t *console) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	restore, err := raw(os.Stdin)
	if err != nil {
		return err
	}
	defer restore()
	go t.read(ctx, os.Stdin) // a read can't be cut short: it ends with the process
	return t.stay(ctx)
}

// raw lets each key through to the guest, if the input is a terminal.
func raw(in *os.File) (restore func(), err error) {
	fd := int(in.Fd())
	if !term.IsTerminal(fd) {
		return func() {}, nil
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set up the terminal: %w", err)
	}
	return func() { _ = term.Restore(fd, before) }, nil // there is no other terminal to tell it to
}

// read passes on what is typed, up to the escape. An input that ends, such as a
// pipe, leaves the console open: what the guest answers is still to come.
func (t *console) read(ctx context.Context, in io.Reader) {
	buffer := make([]byte, inputBytes)
	for {
		n, err := in.Read(buffer)
		typed, left := untilEscape(bytes.Clone(buffer[:n]))
		if len(typed) > 0 {
			select {
			case t.in <- typed:
			case <-ctx.Done():
				return
			}
		}
		if left {
			close(t.in)
			return
		}
		if err != nil {
			return
		}
	}
}

func untilEscape(typed []byte) (before []byte, left bool) {
	before, _, left = bytes.Cut(typed, []byte{escape})
	return before, left
}

// stay connects again and again, until the user leaves or the VM is gone for
// too long.
func (t *console) stay(ctx context.Context) error {
	since := time.Now()
	told := false
	for {
		err := t.attach(ctx)
		switch {
		case errors.Is(err, errLeft):
			t.say("left the console of %s", t.vm)
			return nil
		case ctx.Err() != nil:
			return nil //nolint:nilerr // The user ended it.
		case !waits(err):
			return err
		}
		if t.greeted {
			since, told, t.greeted = time.Now(), false, false
		}
		if time.Since(since) > t.timeout {
			return err
		}
		if !told {
			t.say("waiting for %s: %v (Ctrl+] leaves)", t.vm, err)
			told = true
		}
		if left := t.pause(ctx); left {
			return nil
		}
	}
}

// waits tells whether what failed may become right by itself.
func waits(err error) bool {
	return errors.Is(err, errEnded) || fault.Is(err, fault.NotReady) || fault.Is(err, fault.Transient) || fault.Is(err, fault.Stale)
}

// pause waits before another attempt, and drops what is typed meanwhile.
func (t *console) pause(ctx context.Context) (left bool) {
	timer := time.NewTimer(reconnectAfter)
	defer timer.Stop()
	for {
		select {
		case _, open := <-t.in:
			if !open {
				return true
			}
		case <-timer.C:
			return false
		case <-ctx.Done():
			return true
		}
	}
}

// attach stays on the console until one of the two ends goes away.
func (t *console) attach(ctx context.Context) error {
	far, err := stream.Console(ctx, t.conn, t.vm.far())
	if err != nil {
		return err
	}
	defer far.Close()
	t.greeted = true
	t.say("Successfully connected to %s console. The escape sequence is ^]", t.vm.name)
	printed := make(chan error, 1)
	go func() {
		err := stream.Show(t.out, far)
		if err == nil {
			err = errEnded
		}
		printed <- err
	}()
	for {
		select {
		case err := <-printed:
			return err
		case typed, open := <-t.in:
			if !open {
				return hangUp(far, printed)
			}
			if _, err := far.Write(typed); err != nil {
				return <-printed // has the reason
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hangUp leaves after the guest was given what was typed last.
func hangUp(far *stream.Stream, printed <-chan error) error {
	_ = far.CloseWrite() // it never fails, says its documentation
	timer := time.NewTimer(hangUpTimeout)
	defer timer.Stop()
	select {
	case <-printed: //nolint:errcheck // The user leaves, however the stream ended.
	case <-timer.C:
	}
	return errLeft
}

// say writes a line of this program's own; the terminal is raw.
func (t *console) say(format string, args ...any) {
	fmt.Fprintf(t.note, "\r\n"+format+"\r\n", args...)
}
