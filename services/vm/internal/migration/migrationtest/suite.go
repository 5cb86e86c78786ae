// Package migrationtest says what an engine of migrations must do.
//
// It must not know how any engine works.
package migrationtest

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/migration"
)

// patience bounds what a crowded machine may take; tests that pass don't wait.
const patience = 2 * time.Minute

var (
	quick   = migration.Limits{Downtime: time.Second}
	endless = migration.Limits{Downtime: time.Millisecond, BytesPerSecond: 1}
)

// Subject is an engine and what a test needs beside it.
type Subject struct {
	Engine migration.Engine
	// Start runs an instance, until the test ends, and gives the port of a target.
	Start func(t *testing.T, uid string) *networkv1.Port
	// Works fails unless there is one guest of the instance, and it runs.
	Works func(t *testing.T, uid string)
}

// Run runs the suite. open gives a new engine, which ends with its test.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for name, test := range map[string]func(*trial){
		"what does not run can't be moved":       (*trial).absent,
		"without a target nothing is sent":       (*trial).unprepared,
		"an instance moves, each step said once": (*trial).move,
		"an aborted one stays, and moves later":  (*trial).abort,
	} {
		t.Run(name, func(t *testing.T) {
			test(&trial{T: t, Subject: open(t), uid: uuid.NewString()})
		})
	}
}

type trial struct {
	*testing.T
	Subject
	uid string
}

func (t *trial) check(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t *trial) await(attempt string, want migration.Stage) migration.Sight {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		sight, err := t.Engine.Progress(ctx, t.uid, attempt)
		t.check(err)
		if sight.Stage == want {
			return sight
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s is %+v, want %s", attempt, sight, want)
		}
	}
}

func (t *trial) absent() {
	if err := t.Engine.Prepare(t.Context(), t.uid, "first", &networkv1.Port{}, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("prepared: %v", err)
	}
	t.await("first", migration.Absent)
	t.check(t.Engine.Abort(t.Context(), t.uid, "first"))
}

func (t *trial) unprepared() {
	t.Start(t.T, t.uid)
	if err := t.Engine.Send(t.Context(), t.uid, "first", quick); !fault.Is(err, fault.NotFound) {
		t.Errorf("sent: %v", err)
	}
	t.Works(t.T, t.uid)
}

func (t *trial) move() {
	port := t.Start(t.T, t.uid)
	for _, attempt := range []string{"first", "second"} {
		for range 2 {
			t.check(t.Engine.Prepare(t.Context(), t.uid, attempt, port, nil))
		}
		t.await(attempt, migration.Prepared)
		for range 2 {
			t.check(t.Engine.Send(t.Context(), t.uid, attempt, quick))
		}
		t.await(attempt, migration.Moved)
		// Too late, and no harm.
		t.check(t.Engine.Abort(t.Context(), t.uid, attempt))
		t.await(attempt, migration.Moved)
		t.Works(t.T, t.uid)
	}
}

func (t *trial) abort() {
	port := t.Start(t.T, t.uid)
	t.check(t.Engine.Prepare(t.Context(), t.uid, "first", port, nil))
	t.check(t.Engine.Abort(t.Context(), t.uid, ""))
	t.Works(t.T, t.uid)
	t.check(t.Engine.Prepare(t.Context(), t.uid, "second", port, nil))
	t.check(t.Engine.Send(t.Context(), t.uid, "second", endless))
	for range 2 {
		t.check(t.Engine.Abort(t.Context(), t.uid, "second"))
	}
	if sight := t.await("second", migration.Failed); sight.Failure == "" {
		t.Error("it does not say why")
	}
	t.Works(t.T, t.uid)
	t.check(t.Engine.Prepare(t.Context(), t.uid, "third", port, nil))
	t.check(t.Engine.Send(t.Context(), t.uid, "third", quick))
	t.await("third", migration.Moved)
	t.Works(t.T, t.uid)
}
