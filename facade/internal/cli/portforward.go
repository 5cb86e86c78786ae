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
	"google.golang.org/grpc"

	"orlop.dev/facade/internal/stream"
)

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
		vm := c.parse(args[0]).far()
		if !stdio {
			f := forwarder{out: command.OutOrStdout(), note: command.ErrOrStderr()}
			return f.run(command.Context(), forwards(conn, vm, address, ports))
		}
		if len(ports) != 1 {
			return errors.New("--stdio takes one port")
		}
		far, err := stream.Port(command.Context(), conn, vm, ports[0].target)
		if err != nil {
			return err
		}
		go func() { // a read of standard input can't be cut short: it ends with the process
			_, _ = io.Copy(far, os.Stdin) // what breaks shows in the other direction
			_ = far.CloseWrite()
		}()
		return stream.Show(command.OutOrStdout(), far)
	}
	return command
}

// forwards are the ports to listen on, and where they lead.
func forwards(conn grpc.ClientConnInterface, vm stream.VM, address string, ports []portPair) []forward {
	all := make([]forward, len(ports))
	for i, pair := range ports {
		all[i] = forward{
			local: net.JoinHostPort(address, strconv.Itoa(int(pair.local))),
			to:    fmt.Sprintf("%s/%s:%d", vm.Namespace, vm.Name, pair.target),
			open: func(ctx context.Context) (*stream.Stream, error) {
				return stream.Port(ctx, conn, vm, pair.target)
			},
		}
	}
	return all
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
