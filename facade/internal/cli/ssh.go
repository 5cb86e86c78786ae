package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"orlop.dev/facade/home"
	networkv1 "orlop.dev/gen/orlop/network/v1"
)

const (
	sshPort      = 22
	connectBytes = 32 << 10
)

func newSSH(c *client) *cobra.Command {
	var identity, user string
	var port uint16
	command := &cobra.Command{
		Use:     "ssh [USER@]VM[.NAMESPACE] [-- COMMAND]",
		GroupID: groupVM,
		Short:   "Log in to a VM with this machine's ssh, wherever its network is",
		Args:    cobra.MinimumNArgs(1), ValidArgsFunction: c.completeVM(),
	}
	c.bindNamespace(command)
	command.Flags().StringVarP(&identity, "identity-file", "i", "", "private key")
	command.Flags().StringVarP(&user, "username", "l", "", "user in the VM")
	command.Flags().Uint16VarP(&port, "port", "p", sshPort, "ssh port of the VM")
	command.RunE = func(command *cobra.Command, args []string) error {
		h, err := c.home()
		if err != nil {
			return err
		}
		target := args[0]
		if who, vm, named := strings.Cut(target, "@"); named {
			user, target = who, vm
		}
		vm := c.parse(target)
		arguments, err := sshArguments(h, vm, port)
		if err != nil {
			return err
		}
		if identity != "" {
			arguments = append(arguments, "-i", identity)
		}
		if user != "" {
			arguments = append(arguments, "-l", user)
		}
		child := exec.CommandContext(command.Context(), "ssh", append(append(arguments, vm.name+"."+vm.namespace), args[1:]...)...)
		child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
		return child.Run()
	}
	return command
}

// sshArguments let ssh come in through `orlop connect`. Host keys are kept by
// the name of the VM, apart from the user's own.
func sshArguments(h home.Home, vm objectName, port uint16) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	proxy := fmt.Sprintf("%s connect --home %s -n %s %s %d", quote(self), quote(string(h)), quote(vm.namespace), quote(vm.name), port)
	return []string{
		"-o", "ProxyCommand=" + strings.ReplaceAll(proxy, "%", "%%"),
		"-o", "UserKnownHostsFile=" + h.KnownHosts(),
		"-o", "StrictHostKeyChecking=accept-new",
	}, nil
}

// quote makes one word of a text for the shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

func newConnect(c *client) *cobra.Command {
	command := &cobra.Command{
		Use:     "connect VM[.NAMESPACE] PORT",
		GroupID: groupVM,
		Short:   "Tie standard input and output to a TCP port of a VM",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: c.completeVM(),
	}
	c.bindNamespace(command)
	command.RunE = func(command *cobra.Command, args []string) error {
		port, err := strconv.ParseUint(args[1], 10, 16)
		if err != nil {
			return fmt.Errorf("the port: %w", err)
		}
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		stream, err := networkv1.NewVirtualMachineIPAddressServiceClient(conn).Connect(command.Context())
		if err != nil {
			return err
		}
		vm := c.parse(args[0])
		// If it fails, Recv has the reason.
		_ = stream.Send(&networkv1.ConnectRequest{Namespace: vm.namespace, VirtualMachineName: vm.name, Port: int32(port)})
		go send(stream, os.Stdin) // a read can't be cut short: it ends with the process
		return receive(stream, command.OutOrStdout())
	}
	return command
}

type connection = grpc.BidiStreamingClient[networkv1.ConnectRequest, networkv1.ConnectResponse]

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
