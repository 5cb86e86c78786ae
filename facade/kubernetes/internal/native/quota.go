package native

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Exchangeable reports whether quotas that forbid a Pod allow it in place of one
// of its size: it is they that lack the room, and none counts more than it allows
// already.
func Exchangeable(quotas []corev1.ResourceQuota, pod *corev1.Pod) bool {
	usage, full := usageOf(pod), false
	for _, quota := range quotas {
		for name, hard := range quota.Status.Hard {
			asked, counted := usage[name]
			if !counted {
				continue
			}
			used := quota.Status.Used[name]
			if used.Cmp(hard) > 0 {
				return false
			}
			used.Add(asked)
			full = full || used.Cmp(hard) > 0
		}
	}
	return full
}

// Relaxed reports whether a quota allows more than it did before.
func Relaxed(before, now *corev1.ResourceQuota) bool {
	for name, was := range before.Status.Hard {
		hard, limited := now.Status.Hard[name]
		used, had := now.Status.Used[name], before.Status.Used[name]
		if !limited || hard.Cmp(was) > 0 || used.Cmp(had) < 0 {
			return true
		}
	}
	return false
}

// usageOf is what quotas count of a Pod, by the names that they have for it.
func usageOf(pod *corev1.Pod) corev1.ResourceList {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	resources := pod.Spec.Containers[0].Resources
	return corev1.ResourceList{
		corev1.ResourcePods: one, "count/pods": one,
		corev1.ResourceCPU:            resources.Requests[corev1.ResourceCPU],
		corev1.ResourceRequestsCPU:    resources.Requests[corev1.ResourceCPU],
		corev1.ResourceLimitsCPU:      resources.Limits[corev1.ResourceCPU],
		corev1.ResourceMemory:         resources.Requests[corev1.ResourceMemory],
		corev1.ResourceRequestsMemory: resources.Requests[corev1.ResourceMemory],
		corev1.ResourceLimitsMemory:   resources.Limits[corev1.ResourceMemory],
	}
}
