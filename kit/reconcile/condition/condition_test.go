package condition

import (
	"testing"
	"time"
)

func TestTransitionTimeIsKeptWhileTheStatusIsTheSame(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	first := List{Now: begin}
	first.False("Ready", "Waiting", "for the image")

	second := List{Old: first.Conditions(), Now: begin.Add(time.Minute), Generation: 2}
	second.False("Ready", "Importing", "28.2%")
	got := Find(second.Conditions(), "Ready")
	if !got.GetLastTransitionTime().AsTime().Equal(begin.Truncate(time.Second)) {
		t.Errorf("the time moved to %s though the status stayed", got.GetLastTransitionTime().AsTime())
	}
	if got.GetReason() != "Importing" || got.GetMessage() != "28.2%" || got.GetObservedGeneration() != 2 {
		t.Errorf("the new observation is not there: %v", got)
	}

	third := List{Old: second.Conditions(), Now: begin.Add(2 * time.Minute)}
	third.True("Ready", "Ready", "")
	if got := Find(third.Conditions(), "Ready"); !got.GetLastTransitionTime().AsTime().Equal(begin.Add(2 * time.Minute).Truncate(time.Second)) {
		t.Errorf("the time is %s, but the status changed", got.GetLastTransitionTime().AsTime())
	}
}

func TestOldConditionsAreNotCarriedOver(t *testing.T) {
	first := List{}
	first.True("Resizing", "InProgress", "")
	second := List{Old: first.Conditions()}
	second.True("Ready", "Ready", "")
	if len(second.Conditions()) != 1 {
		t.Errorf("got %v", second.Conditions())
	}
}
