// Package condition makes lists of conditions: what was observed, anew each
// time, but with the time since when each has had its present status.
//
// It must not know what a condition means.
package condition

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "orlop.dev/gen/orlop/meta/v1"
)

// List collects conditions in the order in which they are added. The zero value
// works; it is not for concurrent use.
type List struct {
	// Old are the conditions as they were; only their transition times are used.
	Old []*metav1.Condition
	// Generation of the spec that was looked at.
	Generation int32
	// Now is the time of the observation, kept to the second.
	Now time.Time

	conditions []*metav1.Condition
}

// True adds a condition that holds. reason is CamelCase; message may be empty.
func (l *List) True(name, reason, message string) {
	l.add(name, metav1.ConditionStatus_True, reason, message)
}

// False adds a condition that doesn't hold, and why.
func (l *List) False(name, reason, message string) {
	l.add(name, metav1.ConditionStatus_False, reason, message)
}

// Unknown adds a condition that can't be told, and why.
func (l *List) Unknown(name, reason, message string) {
	l.add(name, metav1.ConditionStatus_Unknown, reason, message)
}

// Conditions returns what was added.
func (l *List) Conditions() []*metav1.Condition { return l.conditions }

func (l *List) add(name string, status metav1.ConditionStatus_Value, reason, message string) {
	since := timestamppb.New(l.Now.Truncate(time.Second))
	if old := Find(l.Old, name); old != nil && old.GetStatus() == status && old.GetLastTransitionTime() != nil {
		since = old.GetLastTransitionTime()
	}
	l.conditions = append(l.conditions, &metav1.Condition{
		Type: name, Status: status, Reason: reason, Message: &message,
		ObservedGeneration: l.Generation, LastTransitionTime: since,
	})
}

// Find returns the condition of that type, nil if there is none.
func Find(conditions []*metav1.Condition, name string) *metav1.Condition {
	for _, c := range conditions {
		if c.GetType() == name {
			return c
		}
	}
	return nil
}
