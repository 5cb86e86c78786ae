package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"orlop.dev/facade/explain"
	explainv1 "orlop.dev/gen/orlop/explain/v1"
)

func newExplain(c *client) *cobra.Command {
	var format string
	command := &cobra.Command{
		Use:   "explain KIND/NAME",
		Short: "Show why an object is where it is, down to the last cause",
		Long: `Follows what an object waits for: disks and images, classes, addresses, VMs; and
who holds an object that is being deleted. Each line has the object's phase and
progress, and the conditions that don't hold.`,
		Example:           "  orlop explain vm/linux-vm\n  orlop explain vd/linux-disk -n prod",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: c.completeExplained(),
	}
	command.Flags().StringVarP(&c.namespace, "namespace", "n", defaultNamespace, "namespace of the object")
	command.Flags().StringVarP(&format, "output", "o", "", "json, or nothing for people")
	command.RunE = func(command *cobra.Command, args []string) error {
		kind, name, split := strings.Cut(strings.Join(args, "/"), "/")
		switch {
		case !split || name == "":
			return fmt.Errorf("%q names no object: write KIND/NAME, such as vm/linux-vm", args[0])
		case format != "" && format != "json":
			return errFormat
		}
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		object := c.parse(name)
		answer, err := explainv1.NewExplainServiceClient(conn).Explain(command.Context(),
			&explainv1.ExplainRequest{Kind: kind, Namespace: object.namespace, Name: object.name})
		if err != nil {
			return err
		}
		if format == "json" {
			text, err := protojson.MarshalOptions{Multiline: true}.Marshal(answer)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(command.OutOrStdout(), string(text))
			return err
		}
		printCause(command.OutOrStdout(), answer.GetCause(), "", "")
		return nil
	}
	return command
}

// completeExplained offers VMs, disks and images.
func (c *client) completeExplained() completion {
	return func(command *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		kind, _, split := strings.Cut(typed, "/")
		if len(args) > 0 || !split {
			return []string{"vm/", "vd/", "vi/", "cvi/", "vmbda/", "vmop/", "vmip/"}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		k, err := explain.Find(kind)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.names(command.Context(), k, kind+"/"), cobra.ShellCompDirectiveNoFileComp
	}
}

// printCause draws a tree: head is before the first line of a cause, rest before
// its others.
func printCause(out io.Writer, cause *explainv1.Cause, head, rest string) {
	line := explain.String(cause)
	if cause.GetRelation() == explainv1.CauseRelation_Holder {
		line = "held by " + line
	}
	line += ": " + summary(cause)
	fmt.Fprintln(out, head+line)
	below := rest + "  "
	if len(cause.GetCauses()) > 0 {
		below = rest + "│ "
	}
	for _, f := range cause.GetFindings() {
		fmt.Fprintln(out, below+finding(f))
	}
	for i, next := range cause.GetCauses() {
		if i == len(cause.GetCauses())-1 {
			printCause(out, next, rest+"└─ ", rest+"   ")
		} else {
			printCause(out, next, rest+"├─ ", rest+"│  ")
		}
	}
}

func summary(cause *explainv1.Cause) string {
	words := cause.GetPhase()
	switch cause.GetState() {
	case explainv1.CauseState_Missing:
		return "does not exist"
	case explainv1.CauseState_Hidden:
		return "can't be seen"
	case explainv1.CauseState_Terminating:
		words = "Terminating"
	case explainv1.CauseState_Settled:
		if words == "" {
			return "lacks nothing"
		}
	}
	if words == "" {
		words = "not looked at yet"
	}
	if progress := cause.GetProgress(); progress != "" && cause.GetState() == explainv1.CauseState_Waiting {
		words += ", " + progress
	}
	return words
}

func finding(f *explainv1.Finding) string {
	text := f.GetCondition() + ": " + f.GetReason()
	if f.GetMessage() != "" {
		text += ": " + f.GetMessage()
	}
	return text
}
