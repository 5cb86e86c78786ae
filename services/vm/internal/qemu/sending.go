package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"orlop.dev/services/vm/internal/qmp"
)

const (
	// The guest is slowed down by throttleFirst percent, then by throttleMore
	// each time that this was not enough, up to throttleMost.
	throttleFirst = 40
	throttleMore  = 20
	throttleMost  = 99
	// soundTCG is the first QEMU whose emulated guests may write memory while it
	// is sent: earlier ones were seen to lose pages.
	soundTCG = 9
	// preSwitchover is a migration whose guest stands still until it is told to go on
	// with the last part (QMP MigrationStatus).
	preSwitchover = "pre-switchover"
)

// migrateInfo is a part of QMP's MigrationInfo. Times are in milliseconds.
type migrateInfo struct {
	Status    string `json:"status"`
	ErrorDesc string `json:"error-desc"`
	TotalTime int64  `json:"total-time"`
	Downtime  int64  `json:"downtime"`
	Throttle  int    `json:"cpu-throttle-percentage"`
	RAM       struct {
		Total       int64   `json:"total"`
		Remaining   int64   `json:"remaining"`
		Transferred int64   `json:"transferred"`
		Rounds      int     `json:"dirty-sync-count"`
		DirtyPages  int64   `json:"dirty-pages-rate"`
		PageSize    int64   `json:"page-size"`
		MegabitRate float64 `json:"mbps"`
	} `json:"ram"`
}

func (i migrateInfo) idle() bool { return i.Status == "" || i.Status == "none" }

// listening is a target that nobody has begun to send to.
func (i migrateInfo) listening() bool { return i.idle() || i.Status == "setup" }

func (i migrateInfo) failed() bool { return i.Status == "failed" || i.Status == "cancelled" }

func (i migrateInfo) elapsed() time.Duration { return time.Duration(i.TotalTime) * time.Millisecond }

func (i migrateInfo) downtime() time.Duration { return time.Duration(i.Downtime) * time.Millisecond }

// transfer is one that goes on.
func (i migrateInfo) transfer() Transfer {
	const bytesPerMegabit = 1e6 / 8
	t := Transfer{
		State: TransferRunning, TotalBytes: i.RAM.Total, RemainingBytes: i.RAM.Remaining, SentBytes: i.RAM.Transferred,
		DirtyRate: i.RAM.DirtyPages * i.RAM.PageSize, Rate: int64(i.RAM.MegabitRate * bytesPerMegabit),
		Rounds: i.RAM.Rounds, ThrottlePercent: i.Throttle, Elapsed: i.elapsed(), Downtime: i.downtime(),
	}
	if i.Status == "device" || i.Status == preSwitchover {
		t.State = TransferSwitching
	}
	return t
}

// sending asks for the migration out of the process, or into it.
func (p *Process) sending(ctx context.Context) (migrateInfo, error) {
	var info migrateInfo
	err := p.ask(ctx, "query-migrate", &info)
	return info, err
}

// listen makes a target wait for its machine. It may be repeated.
func (p *Process) listen(ctx context.Context) error {
	info, err := p.sending(ctx)
	if err != nil || !info.idle() {
		return err
	}
	return p.executeWith(ctx, "migrate-incoming", map[string]any{"uri": "unix:" + incomingSocket}, nil)
}

// setCapabilities turns QEMU's migration capabilities on or off.
func (p *Process) setCapabilities(ctx context.Context, wanted map[string]bool) error {
	var all []any
	for name, on := range wanted {
		all = append(all, map[string]any{"capability": name, "state": on})
	}
	return p.executeWith(ctx, "migrate-set-capabilities", map[string]any{"capabilities": all}, nil)
}

// configure sets how the machine is sent; pause has QEMU wait before the last part.
func (p *Process) configure(ctx context.Context, limits Limits, pause bool) error {
	// With the return path the source is done only once the target has all.
	err := p.setCapabilities(ctx, map[string]bool{"return-path": true, "events": true, "auto-converge": limits.Converge, "pause-before-switchover": pause})
	if err != nil {
		return err
	}
	return p.executeWith(ctx, "migrate-set-parameters", map[string]any{
		"max-bandwidth": limits.BytesPerSecond, "downtime-limit": limits.Downtime.Milliseconds(),
		"cpu-throttle-initial": throttleFirst, "cpu-throttle-increment": throttleMore, "max-cpu-throttle": throttleMost,
	}, nil)
}

// send begins to send the machine.
func (p *Process) send(ctx context.Context, address string, host Host) error {
	client, err := p.connection(ctx)
	if err != nil {
		return err
	}
	if host.Accelerator == AcceleratorTCG && client.Version().Major < soundTCG {
		if err := p.Pause(ctx); err != nil {
			return err
		}
	}
	return p.executeWith(ctx, "migrate", map[string]any{"uri": address}, nil)
}

// goOn sends the last part.
func (p *Process) goOn(ctx context.Context) error {
	return p.executeWith(ctx, "migrate-continue", map[string]any{"state": preSwitchover}, nil)
}

// cancelSending ends a migration out of the process, and returns when it is.
func (p *Process) cancelSending(ctx context.Context) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for asked := false; ; asked = true {
		info, err := p.sending(ctx)
		if err != nil || info.idle() || info.failed() || info.Status == "completed" {
			return err
		}
		if !asked {
			if err := p.execute(ctx, "migrate_cancel", nil); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cancel: %w: %w", ErrUnresponsive, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// wake lets a guest go on that stands still for a migration, and tells the
// network where it is. It may be repeated.
func (p *Process) wake(ctx context.Context) error {
	state, err := p.State(ctx)
	switch {
	case err != nil:
		return err
	case state == StateGone:
		return ErrGone
	case state == StatePaused:
		if err := p.Resume(ctx); err != nil {
			return err
		}
	}
	// The bridge has to learn the guest's new port at once, and not with the next
	// packet that the guest happens to send.
	err = p.executeWith(ctx, "announce-self", map[string]any{"initial": 20, "max": 500, "rounds": 8, "step": 80}, nil)
	if refusal := new(qmp.Error); errors.As(err, &refusal) {
		p.log.Warn("the network is not told that the guest moved", "error", err)
		return nil
	}
	return err
}

// forwardPorts takes the machine's ports over from the source, which is gone.
func (p *Process) forwardPorts(ctx context.Context) {
	user := p.machine.Network.User
	if user == nil {
		return
	}
	for _, f := range user.Forward {
		var said string
		line := fmt.Sprintf("hostfwd_add net0 tcp:%s-%s:%d", f.Host, user.Guest, f.GuestPort)
		err := p.executeWith(ctx, "human-monitor-command", map[string]any{"command-line": line}, &said)
		if err != nil || said != "" {
			p.log.Warn("a port is not forwarded to the guest that moved", "port", f.Host, "said", said, "error", err)
		}
	}
}
