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
	"orlop.dev/facade/internal/stream"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	snapshotv1 "orlop.dev/gen/orlop/snapshot/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
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

// objectName is an object as it is named on the command line: NAME or
// NAME.NAMESPACE.
type objectName struct{ namespace, name string }

func (c *client) parse(argument string) objectName {
	name, namespace, dotted := strings.Cut(argument, ".")
	if !dotted {
		namespace = c.namespace
	}
	return objectName{namespace: namespace, name: name}
}

// far is a VM at the other end of a stream.
func (n objectName) far() stream.VM { return stream.VM{Namespace: n.namespace, Name: n.name} }

func (n objectName) String() string { return n.namespace + "/" + n.name }

// completion offers the words for an argument.
type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeVM offers VMs.
func (c *client) completeVM() completion { return c.complete(&vmv1.VirtualMachine{}, "") }

// completeDisk offers disks, each behind a prefix.
func (c *client) completeDisk(prefix string) completion {
	return c.complete(&diskv1.VirtualDisk{}, prefix)
}

// completeExport offers what can be downloaded.
func (c *client) completeExport(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	disks := c.names(command.Context(), kind.Must(&diskv1.VirtualDisk{}), "vd/")
	return append(disks, c.names(command.Context(), kind.Must(&snapshotv1.VirtualDiskSnapshot{}), "vdsnapshot/")...), cobra.ShellCompDirectiveNoFileComp
}

// complete offers the objects of a kind as the first argument.
func (c *client) complete(object resource.Object, prefix string) completion {
	return func(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.names(command.Context(), kind.Must(object), prefix), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNode offers nodes as the value of a flag.
func (c *client) completeNode(command *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	conn, err := c.dial()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(command.Context(), completionTimeout)
	defer cancel()
	nodes, err := vmv1.NewNodeServiceClient(conn).ListNodes(ctx, &vmv1.ListNodesRequest{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, 0, len(nodes.GetItems()))
	for _, node := range nodes.GetItems() {
		names = append(names, node.GetName())
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// names are the objects of a kind, each behind a prefix. Without a daemon there
// are none.
func (c *client) names(ctx context.Context, k *kind.Kind, prefix string) []string {
	conn, err := c.dial()
	if err != nil {
		return nil
	}
	defer conn.Close()
	client, err := resource.NewClient[resource.Object](conn, k)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	options := resource.ListOptions{}
	if k.Namespaced {
		options.Namespace = c.namespace
	}
	page, err := client.List(ctx, options)
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(page.Items))
	for _, object := range page.Items {
		names = append(names, prefix+object.GetMetadata().GetName())
	}
	return names
}
