// Package migration has the rules of a live migration: how long it may take,
// when it doesn't come to its end, and how it is told to people.
//
// It must not know how a guest is moved (an Engine does), nor where to.
package migration

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/services/vm/internal/power"
)

// Engine moves running instances, known by their VMs' UIDs. An attempt names one
// migration; what is left of another is in nobody's way. Whatever fails, and
// whoever is killed, there is never more than one guest that runs, and the
// source goes on unless the guest runs in the target.
type Engine interface {
	// Prepare makes the target of an instance: the same devices, those that are
	// copied in other files, plugged into that port. Idempotent. Class NotFound where
	// there is no instance.
	Prepare(ctx context.Context, uid, attempt string, port *networkv1.Port, copies []Copy) error
	// Send begins to move the instance into its target. Idempotent. Class NotFound
	// without a target.
	Send(ctx context.Context, uid, attempt string, limits Limits) error
	// Progress says how far an attempt is.
	Progress(ctx context.Context, uid, attempt string) (Sight, error)
	// Abort ends an attempt, whichever it is where none is named, and what it left.
	// Progress then says whether the guest had moved already. Idempotent.
	Abort(ctx context.Context, uid, attempt string) error
}

// Copy is a disk that its node alone reaches, and the empty file that it is copied
// into for the target. Mark is a file that is made, durably, before the guest writes
// to Path alone.
type Copy struct{ Device, Path, Mark string }

// Stage is how far an attempt is.
type Stage string

// The stages of an attempt.
const (
	Absent    Stage = "Absent"    // there is nothing of it
	Prepared  Stage = "Prepared"  // the target waits
	Syncing   Stage = "Syncing"   // disks are copied, or memory is sent, while the guest runs
	Suspended Stage = "Suspended" // the guest stands still
	Moved     Stage = "Moved"     // the guest runs in the target
	Failed    Stage = "Failed"    // the guest stayed in the source
)

// Sight is one look at an attempt.
type Sight struct {
	Stage Stage
	// The guest's memory in bytes: all, and what is still to be sent. While Copying is
	// true they are those of its disks, which come first.
	TotalBytes, RemainingBytes int64
	Copying                    bool
	// CopiedBytes are those of the disks that are copied, in all.
	CopiedBytes int64
	// What the guest writes and what is sent, in bytes a second.
	DirtyRate, Rate int64
	// Rounds counts how often memory was gone through.
	Rounds int
	// ThrottlePercent is how much the guest is slowed down.
	ThrottlePercent int
	// Elapsed is since the beginning, Downtime how long the guest stood still.
	Elapsed, Downtime time.Duration
	// Failure says why it failed.
	Failure string
}

// Limits bound one migration.
type Limits struct {
	// BytesPerSecond is how fast memory is sent; 0 is as fast as it goes.
	BytesPerSecond int64
	// Downtime is how long the guest may stand still at the end.
	Downtime time.Duration
	// Converge lets the guest be slowed down as far as it takes.
	Converge bool
}

// Settings are what an administrator decides for all migrations.
type Settings struct {
	// BytesPerSecond is how fast memory is sent; 0 is as fast as it goes.
	BytesPerSecond int64
	// Downtime is how long a guest may stand still at the end.
	Downtime time.Duration
	// ProgressTimeout is how long as much memory may be left to send.
	ProgressTimeout time.Duration
	// CompletionTimeoutPerGiB is how long it may take in all, for each GiB of the
	// guest's memory, of which it has at least one, and of its disks that are copied.
	CompletionTimeoutPerGiB time.Duration
	// PreparationTimeout is how long a target is looked for.
	PreparationTimeout time.Duration
	// PerNode is how many VMs leave a node at a time.
	PerNode int
	// CopyDisks lets VMs move that have disks which their node alone reaches: those
	// are copied.
	CopyDisks bool
}

// OrDefaults takes the platform's own time-outs and numbers for what is zero.
func (s Settings) OrDefaults() Settings {
	s.Downtime = cmp.Or(s.Downtime, 300*time.Millisecond)
	s.ProgressTimeout = cmp.Or(s.ProgressTimeout, 150*time.Second)
	s.CompletionTimeoutPerGiB = cmp.Or(s.CompletionTimeoutPerGiB, 800*time.Second)
	s.PreparationTimeout = cmp.Or(s.PreparationTimeout, 5*time.Minute)
	s.PerNode = cmp.Or(s.PerNode, 2)
	return s
}

// Limits of one migration under the settings.
func (s Settings) Limits(converge bool) Limits {
	return Limits{BytesPerSecond: s.BytesPerSecond, Downtime: s.Downtime, Converge: converge}
}

// Reasons of the condition Completed of an operation.
const (
	ReasonPending       = "MigrationPending"
	ReasonQuota         = "QuotaExceeded"
	ReasonScheduling    = "TargetScheduling"
	ReasonUnschedulable = "TargetUnschedulable"
	ReasonPreparing     = "TargetPreparing"
	ReasonNotShared     = "HotplugDisksNotShared"
	ReasonSyncing       = "Syncing"
	ReasonNotConverging = "NotConverging"
	ReasonSuspended     = "SourceSuspended"
	ReasonResumed       = "TargetResumed"
	ReasonCompleted     = "Completed"
	ReasonAborted       = "Aborted"
	ReasonFailed        = "Failed"
)

// restless is after how many rounds a guest that writes faster than its memory
// is sent is said not to converge.
const restless = 3

// Describe tells how a migration stands: a reason for programs, a sentence for
// people, and percents.
func Describe(m *power.Migration, sight Sight) (reason, message string, percent int) {
	switch {
	case m.Ended != nil && m.Succeeded:
		return ReasonCompleted, fmt.Sprintf("The VM moved from %s to %s in %s, and stood still for %s.",
			m.Source, m.Target, m.Took.Round(time.Millisecond), m.Downtime), 100
	case m.Failure != nil:
		return m.Failure.Reason, m.Failure.Message, 0
	case m.Target == "" && m.Waits != "":
		return m.WaitsFor, m.Waits, 0
	case m.Target == "":
		return ReasonScheduling, "", 2
	}
	switch sight.Stage {
	case Syncing:
		return describeSyncing(m, sight)
	case Suspended:
		return ReasonSuspended, "The guest stands still while its last memory is sent to " + m.Target + ".", 91
	case Moved:
		return ReasonResumed, "The guest runs on " + m.Target + ".", 92
	}
	return ReasonPreparing, "The VM is prepared on " + m.Target + ".", 3
}

func describeSyncing(m *power.Migration, sight Sight) (reason, message string, percent int) {
	switch {
	case sight.Copying:
		return ReasonSyncing, fmt.Sprintf("Disks are copied to %s: %s of %s left.",
			m.Target, bytes(sight.RemainingBytes), bytes(sight.TotalBytes)), progress(sight, 10, 50)
	case sight.CopiedBytes > 0:
		percent = progress(sight, 50, 90)
	default:
		percent = progress(sight, 10, 90)
	}
	message = fmt.Sprintf("Memory is sent to %s: %s of %s left, at %s a second.",
		m.Target, bytes(sight.RemainingBytes), bytes(sight.TotalBytes), bytes(sight.Rate))
	if sight.ThrottlePercent > 0 {
		message += fmt.Sprintf(" The guest is slowed down by %d %%.", sight.ThrottlePercent)
	}
	if sight.Rounds <= restless || sight.DirtyRate <= sight.Rate {
		return ReasonSyncing, message, percent
	}
	message += fmt.Sprintf(" The guest writes %s a second, so that it does not come to an end.", bytes(sight.DirtyRate))
	if !m.Converge {
		message += " Delete the operation, and make one with force: true, to slow the guest down."
	}
	return ReasonNotConverging, message, percent
}

// progress is how far between two percents a migration is. A round that sends what
// the round before left is nearer to the end, and yet may be followed by more.
func progress(sight Sight, from, to int) int {
	if sight.TotalBytes <= 0 {
		return from
	}
	done := 1 - float64(sight.RemainingBytes)/float64(sight.TotalBytes)
	return from + int(math.Round(float64(to-from)*min(max(done, 0), 1)))
}

func bytes(n int64) string {
	const mebibyte = 1 << 20
	return resource.NewQuantity((n+mebibyte-1)/mebibyte*mebibyte, resource.BinarySI).String()
}

// Watchdog notices migrations that don't come to an end. The zero value works,
// and knows nothing of what an earlier process saw: its time begins anew.
type Watchdog struct {
	mu   sync.Mutex
	seen map[string]mark
}

// mark is the least that was left to send, the most that the guest was slowed
// down, and since when; of disks or of memory.
type mark struct {
	copying   bool
	remaining int64
	throttle  int
	since     time.Time
}

// Overdue says why a migration that is being sent is to be ended, nil if it
// isn't.
func (w *Watchdog) Overdue(s Settings, m *power.Migration, memoryBytes int64, sight Sight, now time.Time) *power.Reason {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, known := w.seen[m.Operation]
	if !known || sight.Copying != last.copying || sight.RemainingBytes < last.remaining || sight.ThrottlePercent > last.throttle {
		last = mark{sight.Copying, sight.RemainingBytes, sight.ThrottlePercent, now}
		if w.seen == nil {
			w.seen = map[string]mark{}
		}
		w.seen[m.Operation] = last
	}
	const gibibyte = 1 << 30
	size := max(1, float64(memoryBytes)/gibibyte) + float64(sight.CopiedBytes)/gibibyte
	most := time.Duration(float64(s.CompletionTimeoutPerGiB) * size)
	switch {
	case m.Sending != nil && now.Sub(*m.Sending) > most:
		return &power.Reason{Reason: ReasonNotConverging, Message: fmt.Sprintf("The migration did not end within %s, and was aborted: the VM stays on %s. %s", most, m.Source, advice(m))}
	case now.Sub(last.since) > s.ProgressTimeout:
		return &power.Reason{Reason: ReasonNotConverging, Message: fmt.Sprintf("The migration made no progress for %s, and was aborted: the VM stays on %s. %s", s.ProgressTimeout, m.Source, advice(m))}
	}
	return nil
}

func advice(m *power.Migration) string {
	if m.Converge {
		return "The guest writes its memory faster than it can be sent, even slowed down: try again when it has less to do."
	}
	return "An operation with force: true slows the guest down as far as it takes."
}

// Forget drops what is known of an attempt.
func (w *Watchdog) Forget(attempt string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.seen, attempt)
}
