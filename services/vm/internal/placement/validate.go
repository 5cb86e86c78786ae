package placement

import (
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
)

// Validate refuses rules that Kubernetes refuses in a Pod, in its words.
func Validate(spec *vmv1.VirtualMachineSpec) error {
	path := field.NewPath("spec")
	problems := metavalidation.ValidateLabels(spec.GetNodeSelector(), path.Child("nodeSelector"))
	if from := spec.GetAffinity().GetNodeAffinity(); from != nil {
		problems = append(problems, validateNodeAffinity(from, path.Child("affinity", "nodeAffinity"))...)
	}
	for name, from := range map[string]*vmv1.VirtualMachineAndPodAffinity{
		"virtualMachineAndPodAffinity":     spec.GetAffinity().GetVirtualMachineAndPodAffinity(),
		"virtualMachineAndPodAntiAffinity": spec.GetAffinity().GetVirtualMachineAndPodAntiAffinity(),
	} {
		problems = append(problems, validateTerms(from, path.Child("affinity", name))...)
	}
	for i, t := range spec.GetTolerations() {
		problems = append(problems, validateToleration(t, path.Child("tolerations").Index(i))...)
	}
	problems = append(problems, validateSpread(spec.GetTopologySpreadConstraints(), path.Child("topologySpreadConstraints"))...)
	if len(problems) == 0 {
		return nil
	}
	return fault.Refuse(problems[0].Field, string(problems[0].Type), "%s", problems[0].ErrorBody())
}

func validateNodeAffinity(from *vmv1.NodeAffinity, path *field.Path) field.ErrorList {
	affinity, err := convert[corev1.NodeAffinity](from)
	if err != nil {
		return field.ErrorList{field.Invalid(path, "", err.Error())}
	}
	var problems field.ErrorList
	if required := affinity.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		_, err := nodeaffinity.NewNodeSelector(required, field.WithPath(path.Child("requiredDuringSchedulingIgnoredDuringExecution")))
		problems = append(problems, fieldErrors(err, path)...)
	}
	_, err = nodeaffinity.NewPreferredSchedulingTerms(affinity.PreferredDuringSchedulingIgnoredDuringExecution,
		field.WithPath(path.Child("preferredDuringSchedulingIgnoredDuringExecution")))
	return append(problems, fieldErrors(err, path)...)
}

// fieldErrors takes a library's error apart.
func fieldErrors(err error, path *field.Path) field.ErrorList {
	if err == nil {
		return nil
	}
	all := []error{err}
	var several utilerrors.Aggregate
	if errors.As(err, &several) {
		all = several.Errors()
	}
	var found field.ErrorList
	for _, one := range all {
		var typed *field.Error
		if !errors.As(one, &typed) {
			typed = field.Invalid(path, "", one.Error())
		}
		found = append(found, typed)
	}
	return found
}

func validateTerms(from *vmv1.VirtualMachineAndPodAffinity, path *field.Path) field.ErrorList {
	var problems field.ErrorList
	for i, r := range from.GetRequiredDuringSchedulingIgnoredDuringExecution() {
		at := path.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i)
		switch {
		case r.PodAffinityTerm != nil && r.Weight == nil:
			problems = append(problems, field.Required(at.Child("weight"), "beside podAffinityTerm"))
		case r.PodAffinityTerm != nil && (r.LabelSelector != nil || r.GetTopologyKey() != ""):
			problems = append(problems, field.Forbidden(at.Child("podAffinityTerm"), "stands instead of labelSelector and topologyKey"))
		case r.PodAffinityTerm != nil:
			problems = append(problems, validateTerm(r.GetPodAffinityTerm(), at.Child("podAffinityTerm"))...)
		case r.Weight != nil:
			problems = append(problems, field.Forbidden(at.Child("weight"), "a required term has none; a preferred one has it beside podAffinityTerm"))
		default:
			problems = append(problems, validateTerm(r, at)...)
		}
	}
	for i, p := range from.GetPreferredDuringSchedulingIgnoredDuringExecution() {
		at := path.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
		problems = append(problems, validateTerm(p.GetVirtualMachineAndPodAffinityTerm(), at.Child("virtualMachineAndPodAffinityTerm"))...)
	}
	return problems
}

func validateTerm(from proto.Message, path *field.Path) field.ErrorList {
	read, err := convert[corev1.PodAffinityTerm](from)
	if err != nil {
		return field.ErrorList{field.Invalid(path, "", err.Error())}
	}
	options := metavalidation.LabelSelectorValidationOptions{}
	problems := metavalidation.ValidateLabelSelector(read.LabelSelector, options, path.Child("labelSelector"))
	problems = append(problems, metavalidation.ValidateLabelSelector(read.NamespaceSelector, options, path.Child("namespaceSelector"))...)
	problems = append(problems, validateKey(read.TopologyKey, path.Child("topologyKey"))...)
	for name, keys := range map[string][]string{"matchLabelKeys": read.MatchLabelKeys, "mismatchLabelKeys": read.MismatchLabelKeys} {
		if len(keys) > 0 && read.LabelSelector == nil {
			problems = append(problems, field.Forbidden(path.Child(name), "must not be specified when labelSelector is not set"))
		}
		problems = append(problems, validateLabelKeys(keys, path.Child(name))...)
	}
	return problems
}

func validateLabelKeys(keys []string, path *field.Path) field.ErrorList {
	var problems field.ErrorList
	for i, key := range keys {
		problems = append(problems, metavalidation.ValidateLabelName(key, path.Index(i))...)
	}
	return problems
}

func validateKey(key string, path *field.Path) field.ErrorList {
	if key == "" {
		return field.ErrorList{field.Required(path, "can not be empty")}
	}
	return metavalidation.ValidateLabelName(key, path)
}

func validateToleration(from *vmv1.Toleration, path *field.Path) field.ErrorList {
	var problems field.ErrorList
	if from.GetKey() != "" {
		problems = metavalidation.ValidateLabelName(from.GetKey(), path.Child("key"))
	}
	operators := []string{"", string(corev1.TolerationOpEqual), string(corev1.TolerationOpExists)}
	effects := []string{"", string(corev1.TaintEffectNoSchedule), string(corev1.TaintEffectPreferNoSchedule), string(corev1.TaintEffectNoExecute)}
	switch {
	case !slices.Contains(operators, from.GetOperator()):
		problems = append(problems, field.NotSupported(path.Child("operator"), from.GetOperator(), operators[1:]))
	case from.GetKey() == "" && from.GetOperator() != string(corev1.TolerationOpExists):
		problems = append(problems, field.Invalid(path.Child("operator"), from.GetOperator(), "must be Exists when `key` is empty"))
	case from.GetOperator() == string(corev1.TolerationOpExists) && from.GetValue() != "":
		problems = append(problems, field.Invalid(path.Child("value"), from.GetValue(), "must be empty when `operator` is 'Exists'"))
	}
	for _, message := range validation.IsValidLabelValue(from.GetValue()) {
		problems = append(problems, field.Invalid(path.Child("value"), from.GetValue(), message))
	}
	if !slices.Contains(effects, from.GetEffect()) {
		problems = append(problems, field.NotSupported(path.Child("effect"), from.GetEffect(), effects[1:]))
	}
	if from.TolerationSeconds != nil && from.GetEffect() != string(corev1.TaintEffectNoExecute) {
		problems = append(problems, field.Invalid(path.Child("effect"), from.GetEffect(), "effect must be 'NoExecute' when `tolerationSeconds` is set"))
	}
	return problems
}

func validateSpread(constraints []*vmv1.TopologySpreadConstraint, path *field.Path) field.ErrorList {
	var problems field.ErrorList
	actions := []string{string(corev1.DoNotSchedule), string(corev1.ScheduleAnyway)}
	for i, from := range constraints {
		at := path.Index(i)
		problems = append(problems, validateKey(from.GetTopologyKey(), at.Child("topologyKey"))...)
		if !slices.Contains(actions, from.GetWhenUnsatisfiable()) {
			problems = append(problems, field.NotSupported(at.Child("whenUnsatisfiable"), from.GetWhenUnsatisfiable(), actions))
		}
		same := func(other *vmv1.TopologySpreadConstraint) bool {
			return other.GetTopologyKey() == from.GetTopologyKey() && other.GetWhenUnsatisfiable() == from.GetWhenUnsatisfiable()
		}
		if slices.ContainsFunc(constraints[:i], same) {
			problems = append(problems, field.Duplicate(at, "{"+from.GetTopologyKey()+", "+from.GetWhenUnsatisfiable()+"}"))
		}
		constraint, err := convert[corev1.TopologySpreadConstraint](from)
		if err != nil {
			problems = append(problems, field.Invalid(at, "", err.Error()))
			continue
		}
		problems = append(problems, metavalidation.ValidateLabelSelector(constraint.LabelSelector,
			metavalidation.LabelSelectorValidationOptions{}, at.Child("labelSelector"))...)
	}
	return problems
}
