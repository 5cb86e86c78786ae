package machine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/power"
)

func from(token string) func(*power.Record) {
	return func(r *power.Record) { r.Memory = &power.Memory{Token: token} }
}

func TestMachineGoesOnFromMemoryOnceAndIsThawed(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.engine.Keep("instant")
	w.ask(from("instant"))
	w.run()
	w.wantCondition("Running", "VirtualMachineRunning", "")
	if w.engine.Resumed() != 1 || w.thawed != 1 {
		t.Fatalf("it went on %d times, was thawed %d times", w.engine.Resumed(), w.thawed)
	}
	w.engine.Set(w.uid(), machine.Sight{State: machine.Crashed})
	w.settle()
	w.now = w.now.Add(time.Minute)
	w.run()
	if w.engine.Resumed() != 1 || w.engine.Starts() != 2 {
		t.Errorf("it went on %d times of %d starts", w.engine.Resumed(), w.engine.Starts())
	}
}

func TestMachineWhoseMemoryIsOfNoUseBootsAndSaysSo(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.ask(from("gone"))
	w.run()
	w.wantCondition("Running", "VirtualMachineRunning", "The guest was booted, with its disks as they were: no memory is kept.")
	w.ask(func(r *power.Record) { r.Restart = "operation" })
	w.run()
	w.wantCondition("Running", "VirtualMachineRunning", "")
}

// The process is killed at each step of a start from memory. The guest that has
// written to its disks never goes on from memory again.
func TestMemoryIsNeverUsedTwiceWhateverIsKilled(t *testing.T) {
	client := etcdtest.Start(t)
	steps := 0
	for at := 0; at <= steps; at++ {
		t.Run(fmt.Sprintf("step %d", at), func(t *testing.T) {
			w := newWorld(t, client)
			w.engine.Keep("instant")
			w.ask(from("instant"))
			ctx, cut := context.WithCancel(t.Context())
			defer cut()
			w.wire.cutAt, w.wire.cut = at, cut
			for range 10 {
				if _, err := w.pass(ctx); err != nil || ctx.Err() != nil {
					break
				}
			}
			if at == 0 {
				steps = w.wire.steps
			}
			w.wire.cutAt = 0
			w.run()
			w.ask(func(r *power.Record) { r.Restart = "operation" })
			w.run()
			if w.engine.Resumed() > 1 || at == 0 && w.engine.Resumed() != 1 {
				t.Errorf("it went on %d times", w.engine.Resumed())
			}
		})
	}
	if steps == 0 {
		t.Error("nothing was cut")
	}
}
