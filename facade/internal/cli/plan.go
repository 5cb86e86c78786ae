package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"sigs.k8s.io/yaml"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource/manifest"
)

var (
	errPlanFile = errors.New("-f is required: the manifest of the VM as it is to be, or - for the standard input")
	errRefused  = errors.New("the update would be refused")
)

func newPlan(c *client) *cobra.Command {
	var file, format string
	command := &cobra.Command{
		Use:   "plan -f FILE",
		Short: "Show what a change of a VM needs: nothing, a migration, a restart",
		Long: `Compares a manifest with the VM of its name, and shows for each field that it
would change what that takes: nothing, a live migration or a restart; or why it
would be refused. Nothing is changed. The exit code is 1 where it would be refused.`,
		Example: "  kubectl get vm linux-vm -o yaml >vm.yaml; $EDITOR vm.yaml\n  orlop plan -f vm.yaml && kubectl apply -f vm.yaml",
		Args:    cobra.NoArgs,
	}
	command.Flags().StringVarP(&file, "filename", "f", "", "manifest of the VM; - is the standard input")
	command.Flags().StringVarP(&format, "output", "o", "", "json, or nothing for people")
	c.bindNamespace(command)
	command.RunE = func(command *cobra.Command, _ []string) error {
		if format != "" && format != "json" {
			return errFormat
		}
		vm, err := readMachine(command.InOrStdin(), file)
		if err != nil {
			return err
		}
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		meta := vm.GetMetadata()
		if meta.GetNamespace() == "" {
			meta.Namespace = c.namespace
		}
		plan, err := vmv1.NewVirtualMachineServiceClient(conn).PlanVirtualMachineUpdate(command.Context(),
			&vmv1.PlanVirtualMachineUpdateRequest{Namespace: meta.GetNamespace(), Name: meta.GetName(), VirtualMachine: vm})
		if err != nil {
			return err
		}
		plan.Changes = slices.DeleteFunc(plan.GetChanges(), bookkeeping)
		if format == "json" {
			err = printPlanJSON(command.OutOrStdout(), plan)
		} else {
			err = printPlan(command.OutOrStdout(), plan)
		}
		return errors.Join(err, refusalIn(plan))
	}
	return command
}

// readMachine reads a manifest, without what only the server writes: what an
// editor saved is a plan for the VM as it is now.
func readMachine(in io.Reader, file string) (*vmv1.VirtualMachine, error) {
	var text []byte
	var err error
	switch file {
	case "":
		return nil, errPlanFile
	case "-":
		text, err = io.ReadAll(in)
	default:
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, err
	}
	var document map[string]any
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	delete(document, "status")
	if meta, has := document["metadata"].(map[string]any); has {
		for _, own := range []string{"resourceVersion", "uid", "generation", "creationTimestamp", "managedFields"} {
			delete(meta, own)
		}
	}
	vm := new(vmv1.VirtualMachine)
	if err := manifest.Decode(document, vm); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if vm.GetMetadata().GetName() == "" {
		return nil, fmt.Errorf("%s: metadata.name is required: it names the VM to compare with", file)
	}
	return vm, nil
}

// bookkeeping is what kubectl and its door write for themselves into a manifest.
func bookkeeping(c *vmv1.PlannedChange) bool {
	key, annotation := strings.CutPrefix(c.GetPath(), "metadata.annotations.")
	return annotation && (strings.HasPrefix(key, "kubectl.kubernetes.io/") || strings.HasPrefix(key, "orlop.dev/"))
}

func printPlanJSON(out io.Writer, plan *vmv1.PlanVirtualMachineUpdateResponse) error {
	text, err := protojson.MarshalOptions{Multiline: true}.Marshal(plan)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, string(text))
	return err
}

func printPlan(out io.Writer, plan *vmv1.PlanVirtualMachineUpdateResponse) error {
	if len(plan.GetChanges()) == 0 {
		_, err := fmt.Fprintln(out, "Nothing changes.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FIELD\tNOW\tTHEN\tNEEDS\t")
	for _, c := range plan.GetChanges() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n",
			c.GetPath(), brief(c.GetCurrentValue()), brief(c.GetDesiredValue()), c.GetNeed(), c.GetMessage())
	}
	return w.Flush()
}

// briefLength is what a column has room for.
const briefLength = 40

// brief is a value on one short line.
func brief(value *structpb.Value) string {
	if value == nil {
		return "-"
	}
	if text, is := value.GetKind().(*structpb.Value_StringValue); is {
		return shortened(text.StringValue)
	}
	text, err := json.Marshal(value.AsInterface())
	if err != nil {
		return "?"
	}
	return shortened(string(text))
}

func shortened(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if letters := []rune(text); len(letters) > briefLength {
		return string(letters[:briefLength-1]) + "…"
	}
	return text
}

func refusalIn(plan *vmv1.PlanVirtualMachineUpdateResponse) error {
	for _, c := range plan.GetChanges() {
		if c.GetNeed() == vmv1.ChangeNeed_Refused {
			return errRefused
		}
	}
	return nil
}
