package machine

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
)

// Plan tells what the changes of an update need: which are the same that wait for
// a restart once the update is done. refusal is why it would be refused; nil where
// it would not.
func (r *Reconciler) Plan(ctx context.Context, old, wanted *vmv1.VirtualMachine, refusal *fault.Fault) ([]*vmv1.PlannedChange, error) {
	uid := old.GetMetadata().GetUid()
	record, err := r.Power.Get(ctx, uid)
	if err != nil {
		return nil, err
	}
	sight, err := r.Engine.Look(ctx, uid)
	if err != nil {
		return nil, err
	}
	var waiting []change
	runs := sight.State.Alive() && record.Node != ""
	if runs {
		if waiting, err = changesSince(record.Applied, wanted.GetSpec()); err != nil {
			return nil, err
		}
	}
	changes, err := changesBetween(old, wanted)
	if err != nil {
		return nil, err
	}
	automatic := wanted.GetSpec().GetDisruptions().GetRestartApprovalMode() == vmv1.RestartApprovalMode_Automatic
	var planned []*vmv1.PlannedChange
	for _, c := range changes {
		planned = append(planned, plan(c, runs, automatic, waiting))
	}
	return refuse(planned, refusal), nil
}

// changesBetween compares all that callers write, with whole paths.
func changesBetween(old, wanted *vmv1.VirtualMachine) ([]change, error) {
	before, err := document(old.GetSpec())
	if err != nil {
		return nil, err
	}
	after, err := document(wanted.GetSpec())
	if err != nil {
		return nil, err
	}
	changes := compare("", before, after)
	for i := range changes {
		changes[i].path = "spec." + changes[i].path
	}
	for _, part := range []struct {
		path        string
		before, now map[string]string
	}{
		{"metadata.labels", old.GetMetadata().GetLabels(), wanted.GetMetadata().GetLabels()},
		{"metadata.annotations", old.GetMetadata().GetAnnotations(), wanted.GetMetadata().GetAnnotations()},
	} {
		if !maps.Equal(part.before, part.now) {
			changes = append(changes, difference(part.path, words(part.before), words(part.now))...)
		}
	}
	return changes, nil
}

func document(spec *vmv1.VirtualMachineSpec) (map[string]any, error) {
	text, err := protojson.Marshal(spec)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	return fields, json.Unmarshal(text, &fields)
}

func words(texts map[string]string) map[string]any {
	values := map[string]any{}
	for key, text := range texts {
		values[key] = text
	}
	return values
}

func plan(c change, runs, automatic bool, waiting []change) *vmv1.PlannedChange {
	planned := &vmv1.PlannedChange{
		Operation: c.operation, Path: c.path, CurrentValue: valueOf(c.current), DesiredValue: valueOf(c.desired),
		Need: vmv1.ChangeNeed_Nothing, Message: "It has its effect at once.",
	}
	path, ofSpec := strings.CutPrefix(c.path, "spec.")
	part, _, _ := strings.Cut(path, ".")
	need, special := needs[part]
	waits := slices.ContainsFunc(waiting, func(w change) bool { return overlap(w.path, path) })
	switch {
	case !ofSpec:
	case !runs:
		planned.Message = "The VM does not run: it has its effect when it starts."
	case special && need == vmv1.ChangeNeed_Migration:
		planned.Need, planned.Message = need, "The VM is migrated if its node does not fit any more."
	case special:
	case !waits:
		planned.Message = "The VM runs so already."
	case automatic:
		planned.Need, planned.Message = vmv1.ChangeNeed_Restart, "The VM is restarted at once: spec.disruptions.restartApprovalMode is Automatic."
	default:
		planned.Need, planned.Message = vmv1.ChangeNeed_Restart, "It waits until the VM is restarted."
	}
	return planned
}

// refuse writes a refusal to the changes that it speaks of. One that speaks of
// none is a line of its own.
func refuse(planned []*vmv1.PlannedChange, refusal *fault.Fault) []*vmv1.PlannedChange {
	if refusal == nil {
		return planned
	}
	fields := refusal.Fields
	if len(fields) == 0 {
		fields = []fault.Field{{Path: "spec", Message: refusal.Message}}
	}
	for _, field := range fields {
		path := strings.NewReplacer("[", ".", "]", "").Replace(field.Path)
		found := false
		for _, c := range planned {
			if overlap(c.GetPath(), path) {
				c.Need, c.Message, found = vmv1.ChangeNeed_Refused, field.Message, true
			}
		}
		if !found {
			planned = append(planned, &vmv1.PlannedChange{
				Operation: "replace", Path: path, Need: vmv1.ChangeNeed_Refused, Message: field.Message,
			})
		}
	}
	return planned
}

// overlap reports whether one path is the other, or leads to it.
func overlap(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+".") || strings.HasPrefix(b, a+".")
}

func valueOf(value any) *structpb.Value {
	if value == nil {
		return nil
	}
	// Values that came out of JSON always fit.
	v, _ := structpb.NewValue(value)
	return v
}
