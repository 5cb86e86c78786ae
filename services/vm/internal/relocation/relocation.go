// Package relocation makes VMs that run leave their nodes: because the node is
// being emptied or no longer fits, because another one has more room, or because
// a newer QEMU is installed. It makes operations of type Evict, as a user would.
//
// It must not know how a VM is moved, nor where to.
package relocation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile/condition"
	"orlop.dev/services/vm/internal/operation"
	"orlop.dev/services/vm/internal/power"
)

// Why is the kind of event that makes a VM move.
type Why struct {
	// prefix begins the operation's name (guide, "Migration Types").
	prefix, annotation string
	// once: what was tried for the same cause is not tried again.
	once bool
}

const (
	annotationPrefix = "virtualization.deckhouse.io/"
	// causeAnnotation tells of an operation for which cause it was made.
	causeAnnotation = annotationPrefix + "workload-update-cause"
	workloadUpdate  = annotationPrefix + "workload-update"
	evacuationMark  = annotationPrefix + "evacuation"

	// An evacuation that failed is tried again after retryFirst, then twice that,
	// and so on up to retryMost.
	retryFirst = 10 * time.Second
	retryMost  = 5 * time.Minute
)

// The events that make VMs move.
var (
	Evacuation    = Why{prefix: "evacuation-", annotation: evacuationMark}
	NodePlacement = Why{prefix: "nodeplacement-update-", annotation: workloadUpdate, once: true}
	Firmware      = Why{prefix: "firmware-update-", annotation: workloadUpdate, once: true}
)

// Cause is why one VM is to move.
type Cause struct {
	Why
	// Sum tells causes of one kind apart: a different one is tried anew.
	Sum string
}

// Of is a cause that differs where one of the parts does.
func (w Why) Of(parts ...any) Cause {
	sum := sha256.Sum256(fmt.Append(nil, parts...))
	return Cause{Why: w, Sum: hex.EncodeToString(sum[:8])}
}

// Outcome is what became of a wish to move a VM.
type Outcome struct {
	// Operation moves the VM; empty where none does.
	Operation string
	// Message says what is in the way, or waited for; a sentence.
	Message string
	// After is when to try again; zero where an event will tell.
	After time.Duration
}

// Mover makes the operations. It is safe for concurrent use.
type Mover struct {
	// Operations lists those of a namespace, Create makes one.
	Operations func(namespace string) ([]*vmv1.VirtualMachineOperation, error)
	Create     func(ctx context.Context, op *vmv1.VirtualMachineOperation) (*vmv1.VirtualMachineOperation, error)
	Now        func() time.Time
	// CopyDisks is true where VMs move that have disks which their node alone reaches.
	CopyDisks bool

	// making makes looking for an operation and making one a single step.
	making sync.Mutex
}

// Move makes a VM leave its node, unless something moves it already, or can't.
// Idempotent.
func (m *Mover) Move(ctx context.Context, vm *vmv1.VirtualMachine, record *power.Record, cause Cause) (Outcome, error) {
	if len(record.Pinned) > 0 && !m.CopyDisks {
		return Outcome{Message: fmt.Sprintf("%s can be used on %s only, so the VM can't be moved: stop it to let it leave.",
			strings.Join(record.Pinned, ", "), record.Node)}, nil
	}
	m.making.Lock()
	defer m.making.Unlock()
	before, err := m.before(vm)
	if err != nil {
		return Outcome{}, err
	}
	if outcome, known := m.standing(before, cause); known {
		return outcome, nil
	}
	meta := vm.GetMetadata()
	made, err := m.Create(ctx, &vmv1.VirtualMachineOperation{
		Metadata: &metav1.ObjectMeta{
			Namespace: meta.GetNamespace(), GenerateName: cause.prefix,
			Annotations: map[string]string{cause.annotation: "true", causeAnnotation: cause.Sum},
		},
		Spec: &vmv1.VirtualMachineOperationSpec{Type: vmv1.OperationType_Evict, VirtualMachineName: meta.GetName()},
	})
	if err != nil {
		return Outcome{}, err
	}
	return moving(made), nil
}

// before are the operations of a VM, the newest first.
func (m *Mover) before(vm *vmv1.VirtualMachine) ([]*vmv1.VirtualMachineOperation, error) {
	all, err := m.Operations(vm.GetMetadata().GetNamespace())
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(op *vmv1.VirtualMachineOperation) bool {
		return op.GetSpec().GetVirtualMachineName() != vm.GetMetadata().GetName()
	})
	slices.SortFunc(all, func(a, b *vmv1.VirtualMachineOperation) int { return created(b).Compare(created(a)) })
	return all, nil
}

func created(op *vmv1.VirtualMachineOperation) time.Time {
	return op.GetMetadata().GetCreationTimestamp().AsTime()
}

// standing says what earlier operations mean for one more.
func (m *Mover) standing(before []*vmv1.VirtualMachineOperation, cause Cause) (Outcome, bool) {
	failures, wait := 0, time.Duration(0)
	var last *vmv1.VirtualMachineOperation
	for _, op := range before {
		kind := op.GetSpec().GetType()
		switch {
		case !operation.Finished(op) && (kind == vmv1.OperationType_Evict || kind == vmv1.OperationType_Migrate):
			return moving(op), true
		case !operation.Finished(op):
			return Outcome{Message: "Operation " + op.GetMetadata().GetName() + " is not finished yet."}, true
		case op.GetMetadata().GetAnnotations()[causeAnnotation] != cause.Sum || !strings.HasPrefix(op.GetMetadata().GetName(), cause.prefix):
			continue
		}
		if last == nil {
			last = op
			wait = -m.Now().Sub(created(op))
		}
		if op.GetStatus().GetPhase() == vmv1.OperationPhase_Failed {
			failures++
		}
	}
	if last == nil || last.GetStatus().GetPhase() != vmv1.OperationPhase_Failed {
		return Outcome{}, false
	}
	failure := "Operation " + last.GetMetadata().GetName() + " failed: " + why(last)
	if cause.once {
		return Outcome{Message: failure}, true
	}
	if wait += min(retryFirst<<min(failures-1, 10), retryMost); wait > 0 {
		return Outcome{Message: fmt.Sprintf("%s It is tried again in %s.", failure, wait.Round(time.Second)), After: wait}, true
	}
	return Outcome{}, false
}

func moving(op *vmv1.VirtualMachineOperation) Outcome {
	name := op.GetMetadata().GetName()
	message := "Operation " + name + " moves the VM."
	if text := why(op); text != "" {
		message = "Operation " + name + " moves the VM: " + text
	}
	return Outcome{Operation: name, Message: message}
}

func why(op *vmv1.VirtualMachineOperation) string {
	return condition.Find(op.GetStatus().GetConditions(), "Completed").GetMessage()
}
