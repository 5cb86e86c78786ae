package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"orlop.dev/services/vm/internal/qmp"
)

// moveRounds is the least number of migrations of each side.
const moveRounds = 5

// BenchmarkMove is a migration of a guest that writes 16 MiB of its memory over
// and over, from the making of the target to the end of the source, beside the
// same commands by hand, where QEMU starts the target by itself. Standing still
// is from the source's STOP to the target's RESUME, as their events say.
func BenchmarkMove(b *testing.B) {
	m := newMover(b)
	var ours, byHand sample
	round := func() {
		ours.add(m.measured())
		b.StopTimer()
		byHand.add(m.movesByHand())
		b.StartTimer()
	}
	for b.Loop() {
		round()
	}
	b.StopTimer()
	for len(ours.total) < moveRounds {
		round()
		b.StopTimer()
	}
	for name, s := range map[string]sample{"ours": ours, "by-hand": byHand} {
		b.ReportMetric(median(s.total).Seconds()*1000, "ms-total/"+name)
		b.ReportMetric(median(s.still).Seconds()*1000, "ms-still/"+name)
	}
	b.ReportMetric(median(ours.total).Seconds()/median(byHand.total).Seconds(), "times-by-hand")
}

type sample struct{ total, still []time.Duration }

func (s *sample) add(total, still time.Duration) {
	s.total, s.still = append(s.total, total), append(s.still, still)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

// measured moves the machine as the engine does.
func (m *mover) measured() (total, still time.Duration) {
	began := time.Now()
	m.receive()
	stops, endStops := m.processIn(m.folderOf(crashID)).Subscribe()
	defer endStops()
	resumes, endResumes := m.processIn(m.peerOf(crashID)).Subscribe()
	defer endResumes()
	if err := m.Send(m.t.Context(), crashID, m.attempt(), fast); err != nil {
		m.t.Fatal(err)
	}
	stopped, resumed := first(m.t, stops, EventStop), first(m.t, resumes, EventResume)
	m.reaches(TransferMoved)
	total = time.Since(began)
	m.works()
	return total, resumed.Sub(stopped)
}

func first(t testing.TB, events <-chan Event, name EventName) time.Time {
	t.Helper()
	late := time.NewTimer(patient)
	defer late.Stop()
	for {
		select {
		case event, open := <-events:
			if !open {
				t.Fatalf("the events ended without %s", name)
			}
			if event.Name == name {
				return event.Time
			}
		case <-late.C:
			t.Fatalf("%s did not come", name)
		}
	}
}

// hand is a QEMU that is driven by nothing but its monitor.
type hand struct {
	t       testing.TB
	command *exec.Cmd
	client  *qmp.Client
}

// movesByHand starts the same guest by hand, moves it by hand, and ends it.
func (m *mover) movesByHand() (total, still time.Duration) {
	m.t.Helper()
	machine := m.machine
	disk := filepath.Join(m.t.TempDir(), "disk.raw")
	content, err := os.ReadFile(machine.Disks[0].Path)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(disk, content, 0o600); err != nil {
		m.t.Fatal(err)
	}
	machine.Disks = slices.Clone(machine.Disks)
	machine.Disks[0].Path = disk
	machine.Network = Network{Mode: NetworkNone}
	source := m.byHand(machine)
	defer source.end()
	source.writes()
	ctx, cancel := context.WithTimeout(m.t.Context(), patient)
	defer cancel()

	began := time.Now()
	target := m.byHand(machine, "-incoming", "defer")
	defer target.end()
	target.execute("migrate-incoming", map[string]any{"uri": "unix:" + incomingSocket})
	source.execute("migrate-set-capabilities", map[string]any{"capabilities": []any{
		map[string]any{"capability": "return-path", "state": true}, map[string]any{"capability": "auto-converge", "state": true},
	}})
	source.execute("migrate-set-parameters", map[string]any{
		"max-bandwidth": 0, "downtime-limit": fast.Downtime.Milliseconds(),
		"cpu-throttle-initial": throttleFirst, "cpu-throttle-increment": throttleMore, "max-cpu-throttle": throttleMost,
	})
	source.execute("migrate", map[string]any{"uri": "unix:" + filepath.Join(target.command.Dir, incomingSocket)})
	stopped, resumed := source.event(ctx, "STOP"), target.event(ctx, "RESUME")
	source.await("query-migrate", "completed")
	source.end()
	return time.Since(began), resumed.Sub(stopped)
}

func (m *mover) byHand(machine Machine, more ...string) *hand {
	m.t.Helper()
	chains, err := m.resolve(machine)
	if err != nil {
		m.t.Fatal(err)
	}
	arguments := slices.DeleteFunc(Args(machine, m.host, chains), func(a string) bool { return a == "-S" })
	h := &hand{t: m.t, command: exec.Command(m.host.Binary, append(more, arguments...)...)}
	// As the engine's: a session of its own has its own share of the processor.
	h.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if h.command.Dir, err = os.MkdirTemp("", "move"); err != nil {
		m.t.Fatal(err)
	}
	if err := h.command.Start(); err != nil {
		m.t.Fatal(err)
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for give := time.Now().Add(patient); h.client == nil; <-tick.C {
		conn, err := folder(h.command.Dir).dial(m.t.Context(), qmpSocket)
		if err == nil {
			h.client, err = qmp.New(m.t.Context(), conn)
		}
		if err != nil && time.Now().After(give) {
			m.t.Fatal(err)
		}
	}
	return h
}

// writes waits until the guest went through its memory.
func (h *hand) writes() {
	h.t.Helper()
	line, err := folder(h.command.Dir).dial(h.t.Context(), serialSocket)
	if err != nil {
		h.t.Fatal(err)
	}
	defer line.Close()
	if err := line.SetDeadline(time.Now().Add(patient)); err != nil {
		h.t.Fatal(err)
	}
	for one := make([]byte, 1); one[0] != '.'; {
		if _, err := line.Read(one); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *hand) execute(command string, arguments any) {
	h.t.Helper()
	if err := h.client.Execute(h.t.Context(), command, arguments, nil); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hand) await(command, status string) {
	h.t.Helper()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		var answer struct{ Status string }
		if err := h.client.Execute(h.t.Context(), command, nil, &answer); err != nil {
			h.t.Fatal(fmt.Errorf("%s: %w", command, err))
		}
		if answer.Status == status {
			return
		}
		<-tick.C
	}
}

func (h *hand) event(ctx context.Context, name string) time.Time {
	h.t.Helper()
	for {
		select {
		case event, open := <-h.client.Events():
			if !open {
				h.t.Fatalf("the events ended without %s", name)
			}
			if event.Name == name {
				return event.Time
			}
		case <-ctx.Done():
			h.t.Fatalf("%s did not come", name)
		}
	}
}

// end may be repeated.
func (h *hand) end() {
	_ = h.command.Process.Kill()
	_ = h.command.Wait()
	_ = h.client.Close()
	_ = os.RemoveAll(h.command.Dir)
}
