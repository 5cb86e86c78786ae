package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	networkv1 "orlop.dev/gen/orlop/network/v1"
)

const connectBytes = 32 << 10

func newPortForward(c *client) *cobra.Command {
	var address string
	var stdio bool
	command := &cobra.Command{
		Use:   "port-forward VM[.NAMESPACE] [LOCAL:]PORT...",
		Short: "Lead local TCP ports to those of a VM",
		Long: `Listens on local ports and leads what connects there to ports of a VM, wherever
its network is, until Ctrl+C. Without LOCAL the local port has the same number; an
empty one is a free port. With --stdio it ties standard input and output to one
port instead.`,
		Example: `  orlop port-forward linux-vm 8080:80
  orlop port-forward linux-vm :22 tcp/9090`,
		Args: cobra.MinimumNArgs(2), ValidArgsFunction: c.completeVM(),
	}
	c.bindNamespace(command)
	command.Flags().StringVar(&address, "address", "127.0.0.1", "local address to listen on")
	command.Flags().BoolVar(&stdio, "stdio", false, "tie standard input and output to the port")
	command.RunE = func(command *cobra.Command, args []string) error {
		ports, err := parsePorts(args[1:])
		if err != nil {
			return err
		}
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		f := forwarder{
			client: networkv1.NewVirtualMachineIPAddressServiceClient(conn), vm: c.parse(args[0]),
			out: command.OutOrStdout(), note: command.ErrOrStderr(),
		}
		if !stdio {
			return f.listen(command.Context(), address, ports)
		}
		if len(ports) != 1 {
			return errors.New("--stdio takes one port")
		}
		return f.tie(command.Context(), ports[0].target, os.Stdin, command.OutOrStdout())
	}
	return command
}

// portPair is a local port and the one of the VM that it leads to.
type portPair struct{ local, target uint16 }

// parsePorts reads [tcp/][LOCAL:]PORT.
func parsePorts(arguments []string) ([]portPair, error) {
	pairs := make([]portPair, len(arguments))
	for i, argument := range arguments {
		ports := argument
		if protocol, rest, named := strings.Cut(argument, "/"); named {
			if protocol != "tcp" {
				return nil, fmt.Errorf("port %q: only tcp can be forwarded, not %s", argument, protocol)
			}
			ports = rest
		}
		local, target, both := strings.Cut(ports, ":")
		if !both {
			target = local
		}
		var err error
		if pairs[i].target, err = parsePort(target); err != nil {
			return nil, fmt.Errorf("port %q: %w", argument, err)
		}
		if local == "" {
			continue
		}
		if pairs[i].local, err = parsePort(local); err != nil {
			return nil, fmt.Errorf("port %q: %w", argument, err)
		}
	}
	return pairs, nil
}

var errPort = errors.New("a port is a number from 1 to 65535")

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, errPort
	}
	return uint16(port), nil
}

// forwarder leads connections to ports of a VM.
type forwarder struct {
	client    networkv1.VirtualMachineIPAddressServiceClient
	vm        objectName
	out, note io.Writer
}

// listen forwards until the context ends.
func (f *forwarder) listen(ctx context.Context, address string, ports []portPair) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, pair := range ports {
		var config net.ListenConfig
		listener, err := config.Listen(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(int(pair.local))))
		if err != nil {
			return fmt.Errorf("forward port %d: %w", pair.target, err)
		}
		stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
		defer stop()
		defer listener.Close()
		fmt.Fprintf(f.out, "Forwarding from %s to %s:%d\n", listener.Addr(), f.vm, pair.target)
		group.Go(func() error { return f.accept(ctx, listener, pair.target) })
	}
	return group.Wait()
}

func (f *forwarder) accept(ctx context.Context, listener net.Listener, port uint16) error {
	group, ctx := errgroup.WithContext(ctx)
	for {
		local, err := listener.Accept()
		if ctx.Err() != nil {
			return group.Wait()
		}
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		group.Go(func() error {
			// One connection that fails is no reason to leave the others.
			if err := f.lead(ctx, local, port); err != nil && ctx.Err() == nil {
				fmt.Fprintf(f.note, "port %d: %v\n", port, err)
			}
			return nil
		})
	}
}

// lead ends when either side does.
func (f *forwarder) lead(ctx context.Context, local net.Conn, port uint16) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := f.open(ctx, port)
	if err != nil {
		return errors.Join(err, local.Close())
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		send(stream, local)
	}()
	err = receive(stream, local)
	cancel()
	_ = local.Close() // ends send
	<-sent
	return err
}

// tie is one connection on other terms: a read of in can't be cut short, so it
// ends with the process.
func (f *forwarder) tie(ctx context.Context, port uint16, in io.Reader, out io.Writer) error {
	stream, err := f.open(ctx, port)
	if err != nil {
		return err
	}
	go send(stream, in)
	return receive(stream, out)
}

type connection = grpc.BidiStreamingClient[networkv1.ConnectRequest, networkv1.ConnectResponse]

func (f *forwarder) open(ctx context.Context, port uint16) (connection, error) {
	stream, err := f.client.Connect(ctx)
	if err != nil {
		return nil, err
	}
	// If it fails, Recv has the reason.
	_ = stream.Send(&networkv1.ConnectRequest{Namespace: f.vm.namespace, VirtualMachineName: f.vm.name, Port: int32(port)})
	return stream, nil
}

// send passes on the input. A failure shows at the other end of the stream.
func send(stream connection, in io.Reader) {
	buffer := make([]byte, connectBytes)
	for {
		n, err := in.Read(buffer)
		if n > 0 && stream.Send(&networkv1.ConnectRequest{Data: buffer[:n]}) != nil {
			return
		}
		if err != nil {
			_ = stream.CloseSend()
			return
		}
	}
}

func receive(stream connection, out io.Writer) error {
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := out.Write(message.GetData()); err != nil {
			return err
		}
	}
}
