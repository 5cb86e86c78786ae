package machine

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

// change is a difference between what runs and what is wanted, in the words of
// status.restartAwaitingChanges.
type change struct {
	operation, path  string
	current, desired any
}

// immediate are the parts of spec that need no restart (guide, "Change virtual
// machine configuration").
var immediate = []string{"runPolicy", "disruptions", "liveMigrationPolicy", "terminationGracePeriodSeconds"}

// changesSince compares the spec that an instance was started with with the
// present one. Lists are compared as a whole, objects field by field.
func changesSince(applied json.RawMessage, spec *vmv1.VirtualMachineSpec) ([]change, error) {
	if len(applied) == 0 {
		return nil, nil
	}
	text, err := protojson.Marshal(spec)
	if err != nil {
		return nil, err
	}
	var before, after map[string]any
	if err := json.Unmarshal(applied, &before); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &after); err != nil {
		return nil, err
	}
	for _, field := range immediate {
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
		old, had := before[key]
		wanted, has := after[key]
		field := strings.TrimPrefix(path+"."+key, ".")
		oldObject, oldIs := old.(map[string]any)
		newObject, newIs := wanted.(map[string]any)
		switch {
		case oldIs && newIs:
			changes = append(changes, compare(field, oldObject, newObject)...)
		case reflect.DeepEqual(old, wanted):
		case !had:
			changes = append(changes, change{operation: "add", path: field, desired: wanted})
		case !has:
			changes = append(changes, change{operation: "remove", path: field, current: old})
		default:
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
