package qemu

import (
	"errors"
	"io/fs"
)

// State is what a machine is doing.
type State string

const (
	// StateStarting is a machine that is made and has not run yet.
	StateStarting State = "Starting"
	// StateRunning is a guest that runs.
	StateRunning State = "Running"
	// StatePaused is a guest that was stopped and may go on.
	StatePaused State = "Paused"
	// StateIOError is a guest that was stopped because a write to a disk
	// failed, as a rule for want of space. Resume tries the write again.
	StateIOError State = "IOError"
	// StateShutdown is a guest that powered off. Its process stays for Kill.
	StateShutdown State = "Shutdown"
	// StatePanicked is a guest whose kernel panicked. Its process stays for
	// Reset or Kill.
	StatePanicked State = "Panicked"
	// StateFailed is a guest that QEMU can't run on (an internal error of the
	// accelerator, say). Its process stays for Kill.
	StateFailed State = "Failed"
	// StateGone is a process that ended: Process.Ending tells how.
	StateGone State = "Gone"
)

// states are QEMU's run states (QMP RunState), as far as they mean something
// else than paused.
var states = map[string]State{
	"prelaunch":      StateStarting,
	"inmigrate":      StateStarting,
	"running":        StateRunning,
	"io-error":       StateIOError,
	"shutdown":       StateShutdown,
	"guest-panicked": StatePanicked,
	"internal-error": StateFailed,
}

// stateIn is what a process is doing in a run folder: a guest that stands still
// and never was let go is one that is being started.
func stateIn(f folder, runState string) State {
	if state := stateOf(runState); state != StatePaused || f.has(startedFile) {
		return state
	}
	return StateStarting
}

func stateOf(runState string) State {
	if state, ok := states[runState]; ok {
		return state
	}
	return StatePaused
}

// Ending is how a process that is gone came to its end.
type Ending string

const (
	// EndingKilled is a process that Kill ended while its guest ran.
	EndingKilled Ending = "Killed"
	// EndingShutdown is a process that Kill ended after its guest had powered off.
	EndingShutdown Ending = "Shutdown"
	// EndingPanicked is a process that Kill ended after its guest had panicked.
	EndingPanicked Ending = "Panicked"
	// EndingCrashed is a process that nobody of ours ended.
	EndingCrashed Ending = "Crashed"
	// EndingHost is a process that went down with the host.
	EndingHost Ending = "Host"
	// EndingUnborn is a process that ended before its guest was let go, or that
	// was recorded and never launched: its start is still to be done.
	EndingUnborn Ending = "Unborn"
)

// ending is the record that Kill writes before it acts, so that the end of a
// process is told from a crash even if the daemon goes down in between.
type ending struct{ State State }

func (f folder) recordEnding(seen State) error {
	var earlier ending
	if f.read(endingFile, &earlier) == nil {
		return nil // of a Kill that was cut short: it saw more
	}
	return f.write(endingFile, ending{seen})
}

func (f folder) ending() (Ending, error) {
	var last ending
	err := f.read(endingFile, &last)
	if err == nil {
		switch last.State {
		case StateShutdown:
			return EndingShutdown, nil
		case StatePanicked:
			return EndingPanicked, nil
		default:
			return EndingKilled, nil
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if !f.has(startedFile) {
		return EndingUnborn, nil
	}
	r, err := f.record()
	if err != nil {
		return "", err
	}
	now, err := bootID()
	if err != nil {
		return "", err
	}
	if r.BootID != now {
		return EndingHost, nil
	}
	return EndingCrashed, nil
}
