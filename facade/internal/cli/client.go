package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"orlop.dev/facade/home"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/serve"
)

const (
	defaultNamespace  = "default"
	completionTimeout = 2 * time.Second
)

// client is how the commands reach a state folder and its services.
type client struct {
	dir       string
	namespace string
}

func (c *client) home() (home.Home, error) { return home.Locate(c.dir) }

// dial connects to the services as the user whose token is in the folder.
func (c *client) dial() (*grpc.ClientConn, error) {
	h, err := c.home()
	if err != nil {
		return nil, err
	}
	if pid, err := h.Owner(); err != nil {
		return nil, err
	} else if pid == 0 {
		return nil, ErrNotRunning
	}
	endpoints, err := h.ReadEndpoints()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(h.Token())
	if err != nil {
		return nil, fmt.Errorf("the token: %w", err)
	}
	roots, err := serve.LoadPool(h.CACertificate())
	if err != nil {
		return nil, err
	}
	return serve.Dial(endpoints[home.GRPC], serve.ClientTLS(roots),
		grpc.WithPerRPCCredentials(serve.BearerToken(strings.TrimSpace(string(token)))))
}

// bindNamespace adds -n.
func (c *client) bindNamespace(command *cobra.Command) {
	command.Flags().StringVarP(&c.namespace, "namespace", "n", defaultNamespace, "namespace of the VM")
}

// vmName is a VM as it is named on the command line: NAME or NAME.NAMESPACE.
type vmName struct{ namespace, name string }

func (c *client) parse(argument string) vmName {
	name, namespace, dotted := strings.Cut(argument, ".")
	if !dotted {
		namespace = c.namespace
	}
	return vmName{namespace: namespace, name: name}
}

func (n vmName) String() string { return n.namespace + "/" + n.name }

// completeVM offers the names of VMs. Without a daemon there are none.
func (c *client) completeVM(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	conn, err := c.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(command.Context(), completionTimeout)
	defer cancel()
	list, err := vmv1.NewVirtualMachineServiceClient(conn).ListVirtualMachines(ctx, &metav1.ListRequest{Namespace: c.namespace})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, 0, len(list.GetItems()))
	for _, vm := range list.GetItems() {
		names = append(names, vm.GetMetadata().GetName())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
