package local

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"orlop.dev/services/vm/internal/guestagent"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/qemu"
)

// agentWatch asks one guest's agent, now and then, for as long as its process
// lives.
type agentWatch struct {
	process *qemu.Process
	stop    context.CancelFunc
	// again asks for a look soon: devices came or went.
	again chan struct{}

	mu    sync.Mutex
	agent *machine.Agent
}

func (w *agentWatch) report() *machine.Agent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.agent
}

// watch returns the watch of a process, begun where there is none.
func (e *Engine) watch(uid string, process *qemu.Process) *agentWatch {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.agents[uid]
	if old != nil && old.process == process {
		return old
	}
	ctx, stop := context.WithCancel(e.life)
	w := &agentWatch{process: process, stop: stop, again: make(chan struct{}, 1)}
	if old != nil {
		// The guest has moved into another process, its agent with it.
		old.stop()
		w.agent = old.report()
	}
	e.agents[uid] = w
	e.watches.Go(func() { w.run(ctx, func() { e.changed(uid) }) })
	return w
}

// lookAgain has the guest asked soon what devices it sees.
func (e *Engine) lookAgain(uid string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w := e.agents[uid]; w != nil {
		select {
		case w.again <- struct{}{}:
		default: // it is asked already
		}
	}
}

func (e *Engine) unwatch(uid string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w := e.agents[uid]; w != nil {
		w.stop()
		delete(e.agents, uid)
	}
}

func (w *agentWatch) run(ctx context.Context, changed func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.process.Gone():
			return
		case <-w.again:
			timer.Reset(guestSees)
			continue
		case <-timer.C:
		}
		agent := w.ask(ctx)
		if w.set(agent) {
			changed()
		}
		if agent == nil {
			timer.Reset(agentPoll)
		} else {
			timer.Reset(agentRefresh)
		}
	}
}

// set reports whether the agent came or went, or names devices otherwise.
func (w *agentWatch) set(agent *machine.Agent) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := (agent == nil) != (w.agent == nil)
	if agent != nil && w.agent != nil {
		agent.Since = w.agent.Since
		changed = !maps.Equal(agent.Targets, w.agent.Targets)
	}
	w.agent = agent
	return changed
}

// ask returns nil where no agent answers.
func (w *agentWatch) ask(ctx context.Context) *machine.Agent {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	if open, err := w.process.AgentOpen(ctx); err != nil || !open {
		return nil
	}
	client := w.process.Agent()
	info, err := client.Info(ctx)
	if err != nil {
		return nil
	}
	agent := &machine.Agent{Version: info.Version, Lacks: info.Lacks, Since: time.Now()}
	if os, err := client.OSInfo(ctx); err == nil {
		agent.OS = osInfo(os)
	}
	if names, err := client.Disks(ctx); err == nil {
		agent.Targets = deviceNames(w.process.Machine(), names)
	}
	_ = w.process.MendClock(ctx) // what fails is tried with the next look
	return agent
}

// deviceNames are a guest's names by the caller's own. In a guest a serial has
// words of its system before it.
func deviceNames(m qemu.Machine, bySerial map[string]string) map[string]string {
	names := map[string]string{}
	for _, d := range slices.Concat(m.Disks, m.Plugged) {
		for serial, name := range bySerial {
			if d.Serial != "" && strings.HasSuffix(serial, d.Serial) {
				names[d.Label] = name
			}
		}
	}
	return names
}

// osInfo is status.guestOSInfo (guide, "Agent Installation").
func osInfo(os guestagent.OSInfo) map[string]any {
	info := map[string]any{}
	for key, value := range map[string]string{
		"id": os.ID, "name": os.Name, "prettyName": os.PrettyName, "version": os.Version, "versionId": os.VersionID,
		"kernelRelease": os.KernelRelease, "kernelVersion": os.KernelVersion, "machine": os.Machine,
	} {
		if value != "" {
			info[key] = value
		}
	}
	return info
}
