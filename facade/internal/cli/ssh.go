package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

const sshPort = 22

// shell is how this machine's ssh and scp are called.
type shell struct {
	user, identity, knownHosts string
	port                       uint16
	options                    []string
}

func (s *shell) bind(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVarP(&s.identity, "identity-file", "i", "", "private key")
	flags.StringVarP(&s.user, "username", "l", "", "user in the VM")
	flags.StringVar(&s.knownHosts, "known-hosts", "", "file with the VMs' host keys (default in the state folder)")
	flags.Uint16VarP(&s.port, "port", "p", sshPort, "ssh port of the VM")
	flags.StringSliceVar(&s.options, "ssh-args", nil, "arguments for the local program, such as -oBatchMode=yes")
	flags.StringSliceVar(&s.options, "local-ssh-opts", nil, "older name of --ssh-args")
	flags.Bool("local-ssh", true, "this machine's ssh is always used")
	for _, old := range []string{"local-ssh-opts", "local-ssh"} {
		// The guide's commands have them.
		_ = flags.MarkHidden(old)
	}
}

// arguments let ssh come in through `orlop port-forward`. Host keys are kept
// apart from the user's own, by the UID of the VM: another VM of the same name is
// another host.
func (s *shell) arguments(ctx context.Context, c *client, vm objectName) ([]string, error) {
	h, err := c.home()
	if err != nil {
		return nil, err
	}
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	found, err := vmv1.NewVirtualMachineServiceClient(conn).GetVirtualMachine(ctx, &metav1.GetRequest{Namespace: vm.namespace, Name: vm.name})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	proxy := fmt.Sprintf("%s port-forward --stdio --home %s -n %s %s %d",
		quote(self), quote(string(h)), quote(vm.namespace), quote(vm.name), s.port)
	known := s.knownHosts
	if known == "" {
		known = h.KnownHosts()
	}
	arguments := []string{
		"-o", "ProxyCommand=" + strings.ReplaceAll(proxy, "%", "%%"),
		"-o", "UserKnownHostsFile=" + known,
		"-o", "HostKeyAlias=" + found.GetMetadata().GetUid(),
		"-o", "StrictHostKeyChecking=accept-new",
	}
	if s.identity != "" {
		arguments = append(arguments, "-i", s.identity)
	}
	return append(arguments, s.options...), nil
}

// quote makes one word of a text for the shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// hostOf is a VM for ssh, with the user if there is one.
func (s *shell) hostOf(user string, vm objectName) string {
	if user == "" {
		user = s.user
	}
	host := vm.name + "." + vm.namespace
	if user == "" {
		return host
	}
	return user + "@" + host
}

// cutUser divides USER@VM.
func cutUser(target string) (user, vm string) {
	if user, vm, named := strings.Cut(target, "@"); named {
		return user, vm
	}
	return "", target
}

func newSSH(c *client) *cobra.Command {
	s := &shell{}
	var remote string
	command := &cobra.Command{
		Use:   "ssh [USER@]VM[.NAMESPACE] [-- COMMAND]",
		Short: "Log in to a VM with this machine's ssh, wherever its network is",
		Example: `  orlop ssh cloud@linux-vm
  orlop ssh cloud@linux-vm -- uptime`,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: c.completeVM(),
	}
	c.bindNamespace(command)
	s.bind(command)
	command.Flags().StringVarP(&remote, "command", "c", "", "command to run instead of a shell")
	command.RunE = func(command *cobra.Command, args []string) error {
		user, target := cutUser(args[0])
		vm := c.parse(target)
		arguments, err := s.arguments(command.Context(), c, vm)
		if err != nil {
			return err
		}
		arguments = append(append(arguments, s.hostOf(user, vm)), args[1:]...)
		if remote != "" {
			arguments = append(arguments, remote)
		}
		return inOurStead(command, "ssh", arguments)
	}
	return command
}

func newSCP(c *client) *cobra.Command {
	s := &shell{}
	var recursive, preserve bool
	command := &cobra.Command{
		Use:   "scp SOURCE TARGET",
		Short: "Copy files to or from a VM with this machine's scp",
		Long:  "Copies files. The side in the VM is written [USER@]VM[.NAMESPACE]:PATH.",
		Example: `  orlop scp page.html cloud@linux-vm:/tmp/
  orlop scp -r cloud@linux-vm:/var/log logs`,
		Args: cobra.ExactArgs(2),
	}
	c.bindNamespace(command)
	s.bind(command)
	command.Flags().BoolVarP(&recursive, "recursive", "r", false, "copy whole folders")
	command.Flags().BoolVar(&preserve, "preserve", false, "keep times and modes")
	command.RunE = func(command *cobra.Command, args []string) error {
		vm, sides, err := s.sides(c, args)
		if err != nil {
			return err
		}
		arguments, err := s.arguments(command.Context(), c, vm)
		if err != nil {
			return err
		}
		if recursive {
			arguments = append(arguments, "-r")
		}
		if preserve {
			arguments = append(arguments, "-p")
		}
		return inOurStead(command, "scp", append(arguments, sides...))
	}
	return command
}

// errOneSide is a copy from here to here, or from a VM to a VM.
var errOneSide = errors.New("one of SOURCE and TARGET must be in a VM: [USER@]VM[.NAMESPACE]:PATH")

// sides finds the one VM of a copy, and names both sides for scp.
func (s *shell) sides(c *client, args []string) (vm objectName, sides []string, err error) {
	for _, side := range args {
		target, path, remote := strings.Cut(side, ":")
		// A colon behind a slash is a file's, as scp(1) has it.
		if !remote || strings.Contains(target, "/") {
			sides = append(sides, side)
			continue
		}
		if vm != (objectName{}) {
			return objectName{}, nil, errOneSide
		}
		user, name := cutUser(target)
		vm = c.parse(name)
		sides = append(sides, s.hostOf(user, vm)+":"+path)
	}
	if vm == (objectName{}) {
		return objectName{}, nil, errOneSide
	}
	return vm, sides, nil
}

// inOurStead runs a program at the user's terminal.
func inOurStead(command *cobra.Command, name string, arguments []string) error {
	child := exec.CommandContext(command.Context(), name, arguments...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	return child.Run()
}
