package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

const (
	drainTimeout = 10 * time.Minute
	drainPoll    = time.Second
)

var errNoNode = errors.New("there is no such node; orlop node list shows all")

// newNode has what kubectl does to nodes, for where there is no Kubernetes API.
func newNode(c *client) *cobra.Command {
	command := &cobra.Command{
		Use:   "node",
		Short: "Show, label, cordon and drain the nodes where VMs run",
		Long: `Shows the nodes where VMs run, and does to them what kubectl label, cordon and drain
do. Where Orlop has a Kubernetes API its Node objects have the last word: use kubectl
there.`,
	}
	command.AddCommand(newNodeList(c), newNodeLabel(c), newCordon(c, true), newCordon(c, false), newDrain(c))
	return command
}

// onNodes runs something with the service of nodes.
func (c *client) onNodes(command *cobra.Command, do func(context.Context, vmv1.NodeServiceClient) error) error {
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	return do(command.Context(), vmv1.NewNodeServiceClient(conn))
}

func newNodeList(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Show the nodes, and how full they are", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return c.onNodes(command, func(ctx context.Context, nodes vmv1.NodeServiceClient) error {
				list, err := nodes.ListNodes(ctx, &vmv1.ListNodesRequest{})
				if err != nil {
					return err
				}
				return printNodes(command.OutOrStdout(), list.GetItems())
			})
		},
	}
}

func printNodes(out io.Writer, nodes []*vmv1.Node) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NAME\tSTATUS\tCPU\tMEMORY\tLABELS\tTAINTS")
	for _, n := range nodes {
		status := "Ready"
		if !n.GetSchedulable() {
			status += ",SchedulingDisabled"
		}
		var labels, taints []string
		for _, key := range slices.Sorted(maps.Keys(n.GetState().GetLabels())) {
			labels = append(labels, key+"="+n.GetState().GetLabels()[key])
		}
		for _, t := range n.GetTaints() {
			taints = append(taints, t.GetKey()+"="+t.GetValue()+":"+t.GetEffect())
		}
		fmt.Fprintf(table, "%s\t%s\t%s/%s\t%s/%s\t%s\t%s\n", n.GetName(), status,
			n.GetAllocated()["cpu"], n.GetAllocatable()["cpu"], n.GetAllocated()["memory"], n.GetAllocatable()["memory"],
			strings.Join(labels, ","), strings.Join(taints, ","))
	}
	return table.Flush()
}

// change changes what an administrator said of a node.
func change(ctx context.Context, nodes vmv1.NodeServiceClient, name string, how func(*vmv1.NodeState)) error {
	list, err := nodes.ListNodes(ctx, &vmv1.ListNodesRequest{})
	if err != nil {
		return err
	}
	for _, n := range list.GetItems() {
		if n.GetName() != name {
			continue
		}
		state := n.GetState()
		if state == nil {
			state = new(vmv1.NodeState)
		}
		if state.Labels == nil {
			state.Labels = map[string]string{}
		}
		how(state)
		_, err := nodes.SetNodeState(ctx, &vmv1.SetNodeStateRequest{Name: name, State: state})
		return err
	}
	return fmt.Errorf("node %s: %w", name, errNoNode)
}

func newNodeLabel(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "label NODE KEY=VALUE|KEY-...", Short: "Give a node labels, or take them away (KEY-)",
		Example: "  orlop node label node-1 disktype=ssd\n  orlop node label node-1 disktype-",
		Args:    cobra.MinimumNArgs(2), ValidArgsFunction: c.completeNode,
		RunE: func(command *cobra.Command, args []string) error {
			return c.onNodes(command, func(ctx context.Context, nodes vmv1.NodeServiceClient) error {
				return change(ctx, nodes, args[0], func(state *vmv1.NodeState) {
					for _, arg := range args[1:] {
						if key, gone := strings.CutSuffix(arg, "-"); gone && !strings.Contains(arg, "=") {
							delete(state.Labels, key)
							continue
						}
						key, value, _ := strings.Cut(arg, "=")
						state.Labels[key] = value
					}
				})
			})
		},
	}
}

func newCordon(c *client, cordon bool) *cobra.Command {
	command := &cobra.Command{Use: "cordon NODE", Short: "Place no new VMs on a node; those that run stay"}
	if !cordon {
		command = &cobra.Command{Use: "uncordon NODE", Short: "Place VMs on a node again"}
	}
	command.Args, command.ValidArgsFunction = cobra.ExactArgs(1), c.completeNode
	command.RunE = func(command *cobra.Command, args []string) error {
		return c.onNodes(command, func(ctx context.Context, nodes vmv1.NodeServiceClient) error {
			return change(ctx, nodes, args[0], func(state *vmv1.NodeState) { state.Unschedulable = cordon })
		})
	}
	return command
}

func newDrain(c *client) *cobra.Command {
	var timeout time.Duration
	command := &cobra.Command{
		Use: "drain NODE", Short: "Cordon a node, move its VMs away, and wait until they have left",
		Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeNode,
	}
	command.Flags().DurationVarP(&timeout, "timeout", "t", drainTimeout, "how long to wait")
	command.RunE = func(command *cobra.Command, args []string) error {
		return c.onNodes(command, func(ctx context.Context, nodes vmv1.NodeServiceClient) error {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			if err := change(ctx, nodes, args[0], func(state *vmv1.NodeState) { state.Unschedulable = true }); err != nil {
				return err
			}
			return drain(ctx, nodes, args[0], command.ErrOrStderr())
		})
	}
	return command
}

// drain repeats itself until the node is empty, and says what each VM waits for
// when that changes.
func drain(ctx context.Context, nodes vmv1.NodeServiceClient, name string, out io.Writer) error {
	said := map[string]string{}
	for {
		left, err := nodes.EvacuateNode(ctx, &vmv1.EvacuateNodeRequest{Name: name})
		if err != nil {
			return err
		}
		if len(left.GetGuests()) == 0 {
			return nil
		}
		for _, g := range left.GetGuests() {
			vm := g.GetNamespace() + "/" + g.GetName()
			if said[vm] != g.GetMessage() {
				said[vm] = g.GetMessage()
				fmt.Fprintf(out, "%s: %s\n", vm, g.GetMessage())
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %s still has %d VMs: %w", name, len(left.GetGuests()), ctx.Err())
		case <-time.After(drainPoll):
		}
	}
}

func newRebalance(c *client) *cobra.Command {
	var dryRun bool
	command := &cobra.Command{
		Use: "rebalance", Short: "Move VMs from the fullest nodes to emptier ones", Args: cobra.NoArgs,
		Long: `Moves running VMs to nodes with more memory left, where their rules allow it, by
operations named evacuation-*, and prints them. Nothing is moved while the fullest node
is less than 20 % of its memory fuller than the others. orlop up --rebalance-every does
it from time to time.`,
	}
	command.Flags().BoolVar(&dryRun, "dry-run", false, "only tell what would be moved")
	command.RunE = func(command *cobra.Command, _ []string) error {
		return c.onNodes(command, func(ctx context.Context, nodes vmv1.NodeServiceClient) error {
			done, err := nodes.RebalanceNodes(ctx, &vmv1.RebalanceNodesRequest{ValidateOnly: dryRun})
			if err != nil {
				return err
			}
			if len(done.GetMoves()) == 0 {
				fmt.Fprintln(command.OutOrStdout(), "Nothing is to be moved: the nodes are filled about evenly, or their VMs can't move.")
			}
			for _, m := range done.GetMoves() {
				fmt.Fprintln(command.OutOrStdout(), strings.TrimSpace(
					fmt.Sprintf("%s/%s: from %s to %s %s", m.GetNamespace(), m.GetName(), m.GetFrom(), m.GetTo(), m.GetOperation())))
			}
			return nil
		})
	}
	return command
}
