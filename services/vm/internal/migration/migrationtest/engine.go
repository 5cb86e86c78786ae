package migrationtest

import (
	"context"
	"sync"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/migration"
)

// Engine moves guests that exist in memory only.
type Engine struct {
	// Runs tells whether there is an instance.
	Runs func(uid string) bool
	// Stuck migrations don't come to an end by themselves.
	Stuck bool
	// Copies are those of the last target.
	Copies []migration.Copy

	mu       sync.Mutex
	attempts map[string]map[string]migration.Stage // by UID and attempt
	limits   migration.Limits
}

// Prepare implements migration.Engine.
func (e *Engine) Prepare(ctx context.Context, uid, attempt string, _ *networkv1.Port, copies []migration.Copy) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if !e.Runs(uid) {
		return fault.New(fault.NotFound, "VirtualMachineNotRunning", "the VM does not run")
	}
	if e.at(uid, attempt) == migration.Absent {
		e.set(uid, attempt, migration.Prepared)
		e.Copies = copies
	}
	return nil
}

// Send implements migration.Engine.
func (e *Engine) Send(ctx context.Context, uid, attempt string, limits migration.Limits) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch at := e.at(uid, attempt); {
	case ctx.Err() != nil:
		return ctx.Err()
	case at == migration.Absent:
		return fault.New(fault.NotFound, "VirtualMachineNotRunning", "there is no target")
	case at == migration.Prepared && (e.Stuck || limits == endless):
		e.set(uid, attempt, migration.Syncing)
	case at == migration.Prepared:
		e.set(uid, attempt, migration.Moved)
	}
	e.limits = limits
	return nil
}

// Progress implements migration.Engine.
func (e *Engine) Progress(ctx context.Context, uid, attempt string) (migration.Sight, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sight := migration.Sight{Stage: e.at(uid, attempt), TotalBytes: 1 << 30, RemainingBytes: 1 << 29}
	if sight.Stage == migration.Failed {
		sight.Failure = "it was aborted"
	}
	return sight, ctx.Err()
}

// Abort implements migration.Engine.
func (e *Engine) Abort(ctx context.Context, uid, attempt string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for known, stage := range e.attempts[uid] {
		if (attempt == "" || attempt == known) && stage != migration.Moved {
			e.set(uid, known, migration.Failed)
		}
	}
	return nil
}

// Set makes an attempt be so far.
func (e *Engine) Set(uid, attempt string, stage migration.Stage) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.set(uid, attempt, stage)
}

// Limits are those of the last migration.
func (e *Engine) Limits() migration.Limits {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.limits
}

func (e *Engine) at(uid, attempt string) migration.Stage {
	if stage, known := e.attempts[uid][attempt]; known {
		return stage
	}
	return migration.Absent
}

func (e *Engine) set(uid, attempt string, stage migration.Stage) {
	if e.attempts == nil {
		e.attempts = map[string]map[string]migration.Stage{}
	}
	if e.attempts[uid] == nil {
		e.attempts[uid] = map[string]migration.Stage{}
	}
	e.attempts[uid][attempt] = stage
}
