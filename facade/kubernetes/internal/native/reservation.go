package native

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	// reservedAnnotation is on a Pod that was made before its VM runs.
	reservedAnnotation = "orlop.dev/reserved"
	// reservation is how long such a Pod stays that no VM's status names.
	reservation = time.Minute
)

// Reserve marks a Pod that is made before its VM runs.
func Reserve(pod *corev1.Pod) { pod.Annotations = map[string]string{reservedAnnotation: "true"} }

// PodsOf selects the Pods of a VM.
func PodsOf(machine string) labels.Selector {
	return labels.SelectorFromSet(labels.Set{machineLabel: machine})
}

// reservedFor is how long a Pod may still be without a VM that runs.
func reservedFor(pod *corev1.Pod) time.Duration {
	if pod.Annotations[reservedAnnotation] == "" || pod.DeletionTimestamp != nil {
		return 0
	}
	return max(time.Until(pod.CreationTimestamp.Add(reservation)), 0)
}
