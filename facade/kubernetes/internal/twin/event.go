package twin

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"orlop.dev/kit/fault"
)

// Reasons of the facade's own events.
const (
	reasonConflict = "ChangedOnBothSides"
	reasonDeleted  = "DeletedElsewhere"
)

// announce tells of a change of phase.
func (c *Controller) announce(cr *unstructured.Unstructured, before, after map[string]any) {
	old, _ := before["phase"].(string)
	phase, _ := after["phase"].(string)
	if phase == old || phase == "" {
		return
	}
	level := corev1.EventTypeNormal
	if phase == "Failed" || strings.HasSuffix(phase, "Lost") {
		level = corev1.EventTypeWarning
	}
	c.events.Event(cr, level, phase, strings.TrimSpace(transition(old, phase)+" "+obstacle(phase, after)))
}

func transition(old, phase string) string {
	if old == "" {
		return fmt.Sprintf("Phase is %s.", phase)
	}
	return fmt.Sprintf("Phase went from %s to %s.", old, phase)
}

// obstacle is the message of the first condition that does not hold. Services
// list conditions in the order in which things happen, so the first is what
// keeps the others from being true. A phase that a condition of its own name
// confirms (Ready, Running, Bound) has no obstacle.
func obstacle(phase string, status map[string]any) string {
	var first string
	conditions, _ := status["conditions"].([]any)
	for _, condition := range conditions {
		condition, _ := condition.(map[string]any)
		holds := condition["status"] == "True"
		if holds && condition["type"] == phase {
			return ""
		}
		message, _ := condition["message"].(string)
		if !holds && first == "" {
			first = message
		}
	}
	return first
}

func (c *Controller) announceRefusal(cr *unstructured.Unstructured, refusal *fault.Fault) {
	c.events.Event(cr, corev1.EventTypeWarning, refusal.Reason, "The service refused this: "+refusal.Message)
}
