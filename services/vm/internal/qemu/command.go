package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"

	"orlop.dev/services/vm/internal/console"
	"orlop.dev/services/vm/internal/guestagent"
	"orlop.dev/services/vm/internal/qmp"
)

// Machine is what the process was started with, with the files that its disks
// write to by now, and what was plugged in since. Present asks QEMU for both.
func (p *Process) Machine() Machine {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.machine
	m.Disks, m.Plugged = p.disks, p.plugged
	return m
}

// Version is the QEMU that the process is, which may be older than the host's;
// unknown while it doesn't answer.
func (p *Process) Version() (version qmp.Version, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client == nil {
		return qmp.Version{}, false
	}
	return p.client.Version(), true
}

// Gone is closed when the process has ended.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Subscribe gives the process's events from now on, until the returned function
// is called, the process is gone or the engine is closed. A subscriber that
// falls 64 events behind is ended early: it subscribes again and looks at State.
func (p *Process) Subscribe() (<-chan Event, func()) { return p.subscribers.add() }

// Console is the guest's serial line, shared.
func (p *Process) Console() *console.Console { return p.console }

// Screen connects to the VNC server of the guest's screen. All connections show
// the same. One who hangs up disturbs nobody.
func (p *Process) Screen(ctx context.Context) (net.Conn, error) {
	return p.folder().dial(ctx, screenSocket)
}

// Agent asks the guest agent. AgentOpen tells first whether there is one,
// without writing anything to a guest that has none.
func (p *Process) Agent() *guestagent.Client { return p.agent }

// State asks what the machine is doing (QMP query-status). A process that is
// gone is StateGone and no error; one that doesn't answer before the context
// ends is ErrUnresponsive.
func (p *Process) State(ctx context.Context) (State, error) {
	var status struct{ Status string }
	err := p.ask(ctx, "query-status", &status)
	switch {
	case err == nil:
		return stateIn(p.folder(), status.Status), nil
	case errors.Is(err, ErrGone):
		return StateGone, nil
	}
	return "", err
}

// ask runs a command that may be repeated: of a process that ends meanwhile it
// gives ErrGone, and nothing that depends on when.
func (p *Process) ask(ctx context.Context, command string, result any) error {
	for {
		err := p.execute(ctx, command, result)
		var refusal *qmp.Error
		switch {
		case err == nil, errors.As(err, &refusal),
			errors.Is(err, ErrGone), errors.Is(err, ErrUnresponsive), errors.Is(err, ErrClosed):
			return err
		}
		// The connection broke while asking: ask the next one, or learn that the
		// process is gone. Both come by way of a change.
		if err := p.lost(ctx); err != nil {
			return err
		}
	}
}

// lost waits until a connection that broke has been noticed.
func (p *Process) lost(ctx context.Context) error {
	p.mu.Lock()
	client, change := p.client, p.change
	p.mu.Unlock()
	if client == nil || client.Err() == nil {
		return nil
	}
	select {
	case <-change:
		return nil
	case <-p.released:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnresponsive, context.Cause(ctx))
	}
}

// Ending tells how a process that is gone ended.
func (p *Process) Ending() (Ending, error) {
	if !p.isGone() {
		return "", fmt.Errorf("%s: %w", p.machine.ID, ErrRunning)
	}
	return p.folder().ending()
}

// AgentOpen tells whether a guest agent has its port open (QMP query-chardev).
func (p *Process) AgentOpen(ctx context.Context) (bool, error) {
	var ports []struct {
		Label string
		Open  bool `json:"frontend-open"`
	}
	if err := p.execute(ctx, "query-chardev", &ports); err != nil {
		return false, err
	}
	for _, port := range ports {
		if port.Label == "agent" {
			return port.Open, nil
		}
	}
	return false, nil
}

// Powerdown presses the guest's power button (ACPI). The guest may take its
// time, or not listen at all; State says when it is down.
func (p *Process) Powerdown(ctx context.Context) error {
	return p.execute(ctx, "system_powerdown", nil)
}

// Reset restarts the guest at once, without asking it, and lets it run. A guest
// in the first tenths of a second of its firmware may hang by it (seen with
// SeaBIOS under TCG); Kill and Start is the way out.
func (p *Process) Reset(ctx context.Context) error {
	events, cancel := p.Subscribe()
	defer cancel()
	if err := p.execute(ctx, "system_reset", nil); err != nil {
		return err
	}
	// QEMU answers first and resets then. A guest that had ended is paused after
	// that, and can't be resumed before.
	for {
		select {
		case event, ok := <-events:
			if !ok {
				return fmt.Errorf("reset: %w", ErrGone)
			}
			if event.Name == EventReset {
				return p.Resume(ctx)
			}
		case <-ctx.Done():
			return fmt.Errorf("reset: %w: %w", ErrUnresponsive, context.Cause(ctx))
		}
	}
}

// Pause stops the guest where it is. Repeating it is harmless.
func (p *Process) Pause(ctx context.Context) error { return p.execute(ctx, "stop", nil) }

// Resume lets a paused guest go on. Repeating it is harmless.
func (p *Process) Resume(ctx context.Context) error { return p.execute(ctx, "cont", nil) }

// letGo starts a guest that was made paused and never ran: by this start, or by
// one that was cut short.
func (p *Process) letGo(ctx context.Context) error {
	state, err := p.State(ctx)
	if err != nil {
		return err
	}
	if state != StateStarting {
		return p.folder().mark(startedFile)
	}
	// From the first byte on the guest's words are kept.
	select {
	case <-p.console.Connected():
	case <-p.gone:
		return &StartError{Stderr: p.folder().lastWords(), Err: ErrGone}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := p.Resume(ctx); err != nil {
		return err
	}
	return p.folder().mark(startedFile)
}

// Kill ends the process without asking the guest, and returns when it is gone.
// QEMU is told to quit, which keeps its disk caches; one that doesn't is killed
// by signal. Repeating it is harmless.
func (p *Process) Kill(ctx context.Context) error {
	if p.isGone() {
		return nil
	}
	polite, cancel := context.WithTimeout(ctx, quitTimeout)
	defer cancel()
	// The state is for Ending; a process that can't tell is ended all the same.
	state, _ := p.State(polite)
	if state == StateGone {
		return nil
	}
	if err := p.folder().recordEnding(state); err != nil {
		return err
	}
	if p.execute(polite, "quit", nil) == nil && p.awaitGone(polite) == nil {
		return nil
	}
	if err := p.folder().killAndWait(ctx, p.machine.ID); err != nil {
		return err
	}
	return p.awaitGone(ctx)
}
