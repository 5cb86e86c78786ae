package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile/condition"
)

const (
	operationTimeout = 5 * time.Minute
	operationPoll    = 300 * time.Millisecond

	hostnameLabel = "kubernetes.io/hostname"
)

// verb is something that one tells a VM to do.
type verb struct {
	name, short string
	kind        vmv1.OperationType_Value
	// force says what --force means; there is none where it is empty.
	force string
}

func verbs() []verb {
	const shutdown = "don't wait for the guest to shut down"
	const slowdown = "let the migration slow the guest down; =false forbids it (default as the VM's liveMigrationPolicy says)"
	return []verb{
		{"start", "Start a VM", vmv1.OperationType_Start, ""},
		{"stop", "Stop a VM", vmv1.OperationType_Stop, shutdown},
		{"restart", "Restart a VM", vmv1.OperationType_Restart, shutdown},
		{"evict", "Move a running VM away from its node", vmv1.OperationType_Evict, slowdown},
		{"migrate", "Move a running VM to another node", vmv1.OperationType_Migrate, slowdown},
	}
}

// operationError is an operation that failed.
type operationError struct {
	name string
	// from the condition that says why; may be nil
	condition *metav1.Condition
}

func (e *operationError) Error() string {
	if e.condition == nil {
		return fmt.Sprintf("operation %s failed", e.name)
	}
	return fmt.Sprintf("operation %s failed: %s: %s: %s", e.name, e.condition.GetType(), e.condition.GetReason(), e.condition.GetMessage())
}

func newOperation(c *client, v verb) *cobra.Command {
	o := operation{verb: v}
	command := &cobra.Command{
		Use:   v.name + " VM[.NAMESPACE]",
		Short: v.short,
		Long: v.short + `, by a VirtualMachineOperation. Returns when the operation is under way, or with
--wait when it is done.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeVM(),
	}
	c.bindNamespace(command)
	command.Flags().BoolVarP(&o.wait, "wait", "w", false, "wait until the operation is done")
	command.Flags().BoolVarP(&o.createOnly, "create-only", "c", false, "return at once")
	command.Flags().DurationVarP(&o.timeout, "timeout", "t", operationTimeout, "how long to wait")
	if v.force != "" {
		command.Flags().BoolVarP(&o.force, "force", "f", false, v.force)
	}
	if v.kind == vmv1.OperationType_Migrate {
		command.Flags().StringVar(&o.target, "target-node-name", "", "the node to move to (default any other)")
		_ = command.RegisterFlagCompletionFunc("target-node-name", c.completeNode) // there is such a flag
	}
	if v.kind == vmv1.OperationType_Migrate || v.kind == vmv1.OperationType_Evict {
		command.Long += "\n\nUntil then the migration is aborted by deleting the operation (kubectl delete vmop NAME): the VM stays where it is."
	}
	o.flags, o.progress = command.Flags(), command.ErrOrStderr
	command.RunE = func(command *cobra.Command, args []string) error {
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(command.Context(), o.timeout)
		defer cancel()
		o.client = vmv1.NewVirtualMachineOperationServiceClient(conn)
		made, err := o.create(ctx, c.parse(args[0]))
		if err != nil {
			return err
		}
		if !o.createOnly {
			if made, err = o.await(ctx, made); err != nil {
				return err
			}
		}
		fmt.Fprintf(command.OutOrStdout(), "virtualmachineoperation/%s: %s\n", made.GetMetadata().GetName(), phaseOf(made))
		return nil
	}
	return command
}

// operation is one use of such a command.
type operation struct {
	verb
	client                  vmv1.VirtualMachineOperationServiceClient
	flags                   *pflag.FlagSet
	progress                func() io.Writer
	wait, createOnly, force bool
	target                  string
	timeout                 time.Duration
}

func (o *operation) create(ctx context.Context, vm objectName) (*vmv1.VirtualMachineOperation, error) {
	spec := &vmv1.VirtualMachineOperationSpec{Type: o.kind, VirtualMachineName: vm.name}
	if o.flags.Changed("force") {
		spec.Force = &o.force
	}
	if o.target != "" {
		spec.Migrate = &vmv1.OperationMigrate{NodeSelector: map[string]string{hostnameLabel: o.target}}
	}
	return o.client.CreateVirtualMachineOperation(ctx, &vmv1.CreateVirtualMachineOperationRequest{
		Namespace: vm.namespace,
		VirtualMachineOperation: &vmv1.VirtualMachineOperation{
			ApiVersion: "virtualization.deckhouse.io/v1alpha2", Kind: "VirtualMachineOperation",
			Metadata: &metav1.ObjectMeta{Namespace: vm.namespace, GenerateName: vm.name + "-" + o.name + "-"},
			Spec:     spec,
		},
	})
}

// await returns when the operation is under way, or done if so wanted.
func (o *operation) await(ctx context.Context, made *vmv1.VirtualMachineOperation) (*vmv1.VirtualMachineOperation, error) {
	tick := time.NewTicker(operationPoll)
	defer tick.Stop()
	request := &metav1.GetRequest{Namespace: made.GetMetadata().GetNamespace(), Name: made.GetMetadata().GetName()}
	told := ""
	for {
		told = o.tell(made, told)
		switch made.GetStatus().GetPhase() {
		case vmv1.OperationPhase_Completed:
			return made, nil
		case vmv1.OperationPhase_Failed:
			return made, failure(made)
		case vmv1.OperationPhase_InProgress:
			if !o.wait {
				return made, nil
			}
		}
		select {
		case <-ctx.Done():
			return made, fmt.Errorf("operation %s is %s: %w", request.GetName(), phaseOf(made), ctx.Err())
		case <-tick.C:
		}
		var err error
		if made, err = o.client.GetVirtualMachineOperation(ctx, request); err != nil {
			return nil, err
		}
	}
}

// tell tells how far a migration is, if that changed.
func (o *operation) tell(op *vmv1.VirtualMachineOperation, told string) string {
	progress := op.GetStatus().GetProgress()
	if progress == "" || !o.wait {
		return told
	}
	now := progress
	if c := condition.Find(op.GetStatus().GetConditions(), "Completed"); c != nil {
		now = strings.TrimSpace(progress + " " + c.GetReason() + " " + c.GetMessage())
	}
	if now != told {
		fmt.Fprintln(o.progress(), now)
	}
	return now
}

func failure(o *vmv1.VirtualMachineOperation) error {
	failed := &operationError{name: o.GetMetadata().GetName()}
	failed.condition = condition.Find(o.GetStatus().GetConditions(), "Completed")
	return failed
}

// phaseOf is Pending where the service hasn't looked yet.
func phaseOf(o *vmv1.VirtualMachineOperation) string {
	if phase := o.GetStatus().GetPhase(); phase != vmv1.OperationPhase_Unspecified {
		return phase.String()
	}
	return vmv1.OperationPhase_Pending.String()
}
