// Package local runs VMs on this machine: it is the engine that turns a VM's
// instance into a QEMU process with its seed, and its guest's agent into facts.
//
// It must not know policies, nor where disks and addresses come from.
package local

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/console"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/qemu"
	"orlop.dev/services/vm/internal/qmp"
)

// answerTimeout bounds the wait for a QEMU that may be hung.
const answerTimeout = 15 * time.Second

// Options say where an engine keeps what it needs.
type Options struct {
	// Dir holds run folders and seeds.
	Dir string
	// DiskRoots are the folders in which disks may have their backing files.
	DiskRoots []string
	Host      qemu.Host
	// Changed is told that an instance changed, by the UID of its VM. It must not
	// block.
	Changed func(uid string)
	Logger  *slog.Logger
}

// Engine implements machine.Engine, migration.Engine and attachment.Engine.
type Engine struct {
	qemu        *qemu.Engine
	seeds       string
	memories    string
	nonVolatile string
	limits      limits
	changed     func(uid string)
	logger      *slog.Logger

	// due are guests to be looked after at once.
	due chan string
	// Agents are watched until Close.
	life    context.Context
	end     context.CancelFunc
	watches sync.WaitGroup

	mu     sync.Mutex
	agents map[string]*agentWatch
}

// New opens an engine. Guests of an earlier process are found when they are
// looked at.
func New(opts Options) (*Engine, error) {
	seeds, memories := filepath.Join(opts.Dir, "seeds"), filepath.Join(opts.Dir, "memories")
	if err := errors.Join(os.MkdirAll(seeds, 0o700), os.MkdirAll(memories, 0o700)); err != nil {
		return nil, err
	}
	limits, err := openLimits(opts.Dir)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	e := &Engine{
		seeds: seeds, memories: memories, nonVolatile: filepath.Join(opts.Dir, "nonvolatile"), limits: limits, changed: opts.Changed, logger: opts.Logger,
		life: life, end: end, agents: map[string]*agentWatch{}, due: make(chan string, dueMost),
	}
	e.qemu, err = qemu.New(qemu.Options{
		Folder: filepath.Join(opts.Dir, "machines"), Host: opts.Host, DiskRoots: opts.DiskRoots, Log: opts.Logger,
		Limits: limits.Limiter,
		Notify: e.notify,
	})
	if err != nil {
		end()
		limits.close()
		return nil, err
	}
	return e, nil
}

// Close lets go of all guests; they run on.
func (e *Engine) Close() {
	e.end()
	e.watches.Wait()
	e.qemu.Close()
	e.limits.close()
}

// Start implements machine.Engine.
func (e *Engine) Start(ctx context.Context, instance machine.Instance) error {
	m, err := e.furnish(instance)
	if err != nil {
		return err
	}
	process, err := e.qemu.Start(ctx, m)
	if err != nil {
		return startFault(err)
	}
	e.watch(instance.UID, process)
	return nil
}

// furnish is an instance in QEMU's words, with its seed written.
func (e *Engine) furnish(instance machine.Instance) (qemu.Machine, error) {
	seed, err := e.writeSeed(instance)
	if err != nil {
		return qemu.Machine{}, err
	}
	m, err := machineOf(instance, seed)
	e.equip(&m, instance.Bootloader, instance.OS)
	return m, err
}

func startFault(err error) error {
	var start *qemu.StartError
	switch {
	case errors.Is(err, qemu.ErrInvalid), errors.Is(err, qemu.ErrUnsafe):
		return fault.Wrap(err, fault.Invalid, "InternalVirtualMachineError", "QEMU can't run this VM: %v", err)
	case errors.Is(err, qemu.ErrLacking):
		return fault.Wrap(err, fault.NotReady, "InternalVirtualMachineError", "%v", err)
	case errors.As(err, &start):
		return fault.Wrap(err, fault.Transient, "InternalVirtualMachineError", "QEMU did not start: %s", start.Stderr)
	}
	return err
}

// Look implements machine.Engine. It takes answerTimeout at most.
func (e *Engine) Look(ctx context.Context, uid string) (machine.Sight, error) {
	bounded, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	process, err := e.qemu.Find(bounded, uid)
	if errors.Is(err, qemu.ErrNotFound) {
		return machine.Sight{State: machine.Absent}, nil
	}
	state := qemu.StateGone
	if err == nil {
		state, err = process.State(bounded)
	}
	switch {
	case err != nil && ctx.Err() == nil && (errors.Is(err, qemu.ErrUnresponsive) || errors.Is(err, context.DeadlineExceeded)):
		return machine.Sight{State: machine.Unresponsive}, nil
	case err != nil:
		return machine.Sight{}, unresponsive(err)
	}
	installed := e.qemu.Host().Version.String()
	sight := machine.Sight{QEMU: installed, InstalledQEMU: installed, Moving: e.qemu.Moving(uid)}
	if process.Machine().CPU.MilliCPU > 0 {
		sight.Unlimited = e.limits.reason
	}
	if state == qemu.StateGone {
		sight.State, err = stateOfEnding(process)
		return sight, err
	}
	sight.State = stateOf(state)
	if state == qemu.StateIOError {
		if sight.Stalled, err = stalledBy(bounded, process); err != nil {
			return sight, unresponsive(err)
		}
	}
	if sight.State == machine.Running {
		sight.Agent = e.watch(uid, process).report()
	}
	if sight.State.Alive() {
		if running, known := process.Version(); known {
			sight.QEMU = running.String()
		}
		sight.Plugged, err = pluggedInto(bounded, process)
	}
	return sight, err
}

func unresponsive(err error) error {
	return fault.Wrap(err, fault.Transient, "InternalVirtualMachineError", "QEMU does not answer now")
}

func stateOf(state qemu.State) machine.State {
	switch state {
	case qemu.StateRunning:
		return machine.Running
	case qemu.StatePaused, qemu.StateIOError:
		return machine.Paused
	case qemu.StateShutdown:
		return machine.Shutdown
	case qemu.StatePanicked, qemu.StateFailed:
		return machine.Panicked
	}
	// A start that was cut short: Start finishes it, or begins again.
	return machine.Absent
}

func stateOfEnding(process *qemu.Process) (machine.State, error) {
	ending, err := process.Ending()
	switch ending {
	case qemu.EndingShutdown:
		return machine.Shutdown, err
	case qemu.EndingPanicked:
		return machine.Panicked, err
	case qemu.EndingCrashed, qemu.EndingHost:
		return machine.Crashed, err
	}
	return machine.Absent, err
}

// Powerdown implements machine.Engine.
func (e *Engine) Powerdown(ctx context.Context, uid string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	process, err := e.qemu.Find(ctx, uid)
	if err == nil {
		err = process.Powerdown(ctx)
	}
	if errors.Is(err, qemu.ErrNotFound) || errors.Is(err, qemu.ErrGone) {
		return nil
	}
	if err != nil {
		return unresponsive(err)
	}
	return nil
}

// Grow implements machine.Engine. Class NotFound where there is no instance.
func (e *Engine) Grow(ctx context.Context, uid, device string, virtualBytes int64) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	process, err := e.qemu.Find(ctx, uid)
	if err == nil {
		_, id := nameOf(device)
		err = process.Grow(ctx, id, virtualBytes)
	}
	var refusal *qmp.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, qemu.ErrNotFound), errors.Is(err, qemu.ErrGone):
		return fault.Wrap(err, fault.NotFound, "VirtualMachineNotRunning", "the VM does not run")
	case errors.Is(err, qemu.ErrInvalid):
		return fault.Wrap(err, fault.Invalid, "InternalVirtualMachineError", "the VM does not run with %s", device)
	case errors.As(err, &refusal):
		return fault.Wrap(err, fault.Transient, "VirtualDiskResizingFailed", "QEMU can't make %s larger now", device)
	}
	return unresponsive(err)
}

// Kill implements machine.Engine.
func (e *Engine) Kill(ctx context.Context, uid string) error {
	if err := e.qemu.Kill(ctx, uid); err != nil {
		return err
	}
	e.unwatch(uid)
	if err := e.qemu.Remove(ctx, uid); err != nil {
		return err
	}
	if err := os.Remove(e.seedPath(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Console is the serial line of a running instance, shared among viewers.
// Class NotReady where there is none.
func (e *Engine) Console(ctx context.Context, uid string) (*console.Console, error) {
	process, err := e.running(ctx, uid)
	if err != nil {
		return nil, err
	}
	return process.Console(), nil
}

// Screen connects to the VNC server of a running instance. Class NotReady where
// there is none.
func (e *Engine) Screen(ctx context.Context, uid string) (net.Conn, error) {
	process, err := e.running(ctx, uid)
	if err != nil {
		return nil, err
	}
	conn, err := process.Screen(ctx)
	if err != nil {
		return nil, fault.Wrap(err, fault.NotReady, "VirtualMachineWithoutScreen", "the VM's screen can't be reached: one that was started by an older version has none until it restarts")
	}
	return conn, nil
}

func (e *Engine) running(ctx context.Context, uid string) (*qemu.Process, error) {
	process, err := e.qemu.Find(ctx, uid)
	if err != nil && !errors.Is(err, qemu.ErrNotFound) {
		return nil, unresponsive(err)
	}
	if err == nil {
		select {
		case <-process.Gone():
		default:
			return process, nil
		}
	}
	return nil, fault.New(fault.NotReady, "VirtualMachineNotRunning", "the VM does not run")
}

const (
	agentPoll    = 500 * time.Millisecond
	agentRefresh = time.Minute
	agentTimeout = 10 * time.Second
	// guestSees is how long a guest may take to see a device.
	guestSees = 2 * time.Second
)
