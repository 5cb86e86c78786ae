package machine

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

// change is a difference between what runs and what is wanted, in the words of
// status.restartAwaitingChanges.
type change struct {
	operation, path  string
	current, desired any
}

// needs says what a change of a part of spec takes while the VM runs (guide,
// "Change virtual machine configuration"). All others take a restart.
var needs = map[string]vmv1.ChangeNeed_Value{
	"runPolicy":           vmv1.ChangeNeed_Nothing,
	"disruptions":         vmv1.ChangeNeed_Nothing,
	"liveMigrationPolicy": vmv1.ChangeNeed_Nothing,
	"affinity":            vmv1.ChangeNeed_Migration,
	"nodeSelector":        vmv1.ChangeNeed_Migration,
	"tolerations":         vmv1.ChangeNeed_Migration,
}

// placedAnew reports whether a spec chooses nodes otherwise than the one that a
// VM was placed by.
func placedAnew(applied json.RawMessage, spec *vmv1.VirtualMachineSpec) bool {
	after, err := document(spec)
	if err != nil {
		return true
	}
	var before map[string]any
	if err := json.Unmarshal(applied, &before); err != nil {
		return true
	}
	for field, need := range needs {
		if need == vmv1.ChangeNeed_Migration && !reflect.DeepEqual(before[field], after[field]) {
			return true
		}
	}
	return false
}

// changesSince compares the present spec with the one that an instance was
// started with: objects field by field, block devices one by one, other lists as
// a whole.
func changesSince(applied json.RawMessage, spec *vmv1.VirtualMachineSpec) ([]change, error) {
	if len(applied) == 0 {
		return nil, nil
	}
	after, err := document(spec)
	if err != nil {
		return nil, err
	}
	var before map[string]any
	if err := json.Unmarshal(applied, &before); err != nil {
		return nil, err
	}
	for field := range needs {
		delete(before, field)
		delete(after, field)
	}
	return compare("", before, after), nil
}

func compare(path string, before, after map[string]any) []change {
	keys := maps.Clone(before)
	maps.Copy(keys, after)
	var changes []change
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		field := strings.TrimPrefix(path+"."+key, ".")
		changes = append(changes, difference(field, before[key], after[key])...)
	}
	return changes
}

// difference is between two values of one field; nil is none.
func difference(field string, before, after any) []change {
	oldObject, oldIsObject := before.(map[string]any)
	newObject, newIsObject := after.(map[string]any)
	oldList, oldIsList := before.([]any)
	newList, newIsList := after.([]any)
	switch {
	case reflect.DeepEqual(before, after):
		return nil
	case oldIsObject && newIsObject:
		changes := compare(field, oldObject, newObject)
		if field == "cpu" && len(changes) > 1 {
			return []change{{operation: "replace", path: field, current: before, desired: after}}
		}
		return changes
	case field == "blockDeviceRefs" && oldIsList && newIsList:
		return compareItems(field, oldList, newList)
	case before == nil:
		return []change{{operation: "add", path: field, desired: after}}
	case after == nil:
		return []change{{operation: "remove", path: field, current: before}}
	}
	return []change{{operation: "replace", path: field, current: before, desired: after}}
}

// compareItems names items by their places.
func compareItems(path string, before, after []any) []change {
	var changes []change
	for i := range max(len(before), len(after)) {
		var old, wanted any
		if i < len(before) {
			old = before[i]
		}
		if i < len(after) {
			wanted = after[i]
		}
		field := path + "." + strconv.Itoa(i)
		switch {
		case old == nil:
			changes = append(changes, change{operation: "add", path: field, desired: wanted})
		case wanted == nil:
			changes = append(changes, change{operation: "remove", path: field, current: old})
		case !reflect.DeepEqual(old, wanted):
			changes = append(changes, change{operation: "replace", path: field, current: old, desired: wanted})
		}
	}
	return changes
}

// message is a change as the status shows it.
func (c change) message() *structpb.Struct {
	fields := map[string]any{"operation": c.operation, "path": c.path}
	if c.current != nil {
		fields["currentValue"] = c.current
	}
	if c.desired != nil {
		fields["desiredValue"] = c.desired
	}
	// Values that came out of JSON always fit into a Struct.
	message, _ := structpb.NewStruct(fields)
	return message
}
