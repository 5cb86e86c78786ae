package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// A machine moves by a second process of the same machine, its peer, which takes
// over what the first one was (live migration; QEMU's docs/devel/migration). The
// peer has a run folder of its own beside the machine's. The one instant that
// counts is the exchange of the two folders' names, which is atomic: before it
// the machine is the old process, whatever becomes of the new one, which has
// never run; after it the new one, and the old one is never let go again. A
// daemon that is killed anywhere finds by the folders and by what both processes
// say where it was (docs/adr/0011).
const (
	peerSuffix = ".peer"
	// moveFile is the last migration out of this process, or the one into it.
	moveFile = "move.json"
	// owedFile is there from before the exchange until all that follows it is done.
	owedFile = "owed"
)

// TransferState is how far a migration is.
type TransferState string

const (
	// TransferNone is a migration of which nothing is there.
	TransferNone TransferState = "None"
	// TransferWaiting is a target that waits for Send.
	TransferWaiting TransferState = "Waiting"
	// TransferRunning is memory that is being sent, while the guest runs.
	TransferRunning TransferState = "Running"
	// TransferSwitching is a guest that stands still between the two.
	TransferSwitching TransferState = "Switching"
	// TransferMoved is a guest that runs in the target.
	TransferMoved TransferState = "Moved"
	// TransferFailed is a guest that stayed where it was.
	TransferFailed TransferState = "Failed"
)

// Transfer is one look at a migration.
type Transfer struct {
	State TransferState
	// Bytes of the guest's memory in all, that are still to be sent, and that
	// were sent.
	TotalBytes, RemainingBytes, SentBytes int64
	// What the guest writes and what is sent, in bytes a second.
	DirtyRate, Rate int64
	// Rounds counts how often memory was gone through.
	Rounds int
	// ThrottlePercent is how much of the guest's time is taken from it.
	ThrottlePercent int
	// CopiedBytes are those of the disks that are copied, in all. While Copying is
	// true it is they whose bytes are counted above; memory comes later.
	CopiedBytes int64
	Copying     bool
	// Elapsed is since the beginning, Downtime how long the guest stood still.
	Elapsed, Downtime time.Duration
	// Failure says why it failed, for people.
	Failure string
}

// Limits bound a migration.
type Limits struct {
	// BytesPerSecond is how fast memory is sent; 0 is as fast as it goes.
	BytesPerSecond int64
	// Downtime is how long the guest may stand still.
	Downtime time.Duration
	// Converge slows the guest down as far as it takes to come to an end
	// (auto-converge).
	Converge bool
}

// move is a migration as the run folder has it.
type move struct {
	Attempt string
	// Copying is true until memory is sent: whatever QEMU says of a migration is of
	// an earlier one.
	Copying bool `json:",omitempty"`
	// Failed says why it failed; empty while it goes on, and after it went well.
	Failed string `json:",omitempty"`
	// Moved is what a migration into this process took; nil out of it.
	Moved *moved `json:",omitempty"`
}

type moved struct{ ElapsedMillis, DowntimeMillis int64 }

// move reads the last migration; the zero value is none. One that can't be read
// went down with the host, and both processes with it.
func (f folder) move() (move, error) {
	var m move
	err := f.read(moveFile, &m)
	if broken := new(json.SyntaxError); errors.Is(err, fs.ErrNotExist) || errors.As(err, &broken) {
		return move{}, nil
	}
	return m, err
}

// setMove replaces it in one step, without waiting for the disk: what it says
// matters no longer than the processes live.
func (f folder) setMove(m move) error {
	content, err := json.Marshal(m)
	if err != nil {
		return err
	}
	fresh := f.path(moveFile + ".new")
	return errors.Join(os.WriteFile(fresh, content, 0o600), os.Rename(fresh, f.path(moveFile)))
}

func (e *Engine) peerOf(id string) folder { return e.folderOf(id) + peerSuffix }

// Moving tells whether something is left of a migration that has not ended.
func (e *Engine) Moving(id string) bool {
	return idPattern.MatchString(id) && (e.peerOf(id).exists() || e.folderOf(id).has(owedFile))
}

// Receive makes the process that is to take a running machine over: with its
// very devices, but for the tap that its interface is plugged into, and for the
// files of disks that are copied. It waits there until Send. Idempotent for one
// attempt; what is left of another is removed. Errors: ErrGone if the machine
// doesn't run, and those of Start.
func (e *Engine) Receive(ctx context.Context, id, attempt, tap string, copies []Copy) error {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	source, err := e.find(ctx, id)
	if err != nil {
		return err
	}
	if source.isGone() {
		return fmt.Errorf("%s: %w", id, ErrGone)
	}
	if source.folder().has(savingFile) {
		return fmt.Errorf("%w: the machine's memory is being saved", ErrBusy)
	}
	peer := e.peerOf(id)
	target, err := e.target(ctx, id, attempt)
	if err != nil {
		return err
	}
	if target == nil {
		if err := e.discard(ctx, peer, id); err != nil {
			return err
		}
		if err := errors.Join(source.endStreams(ctx), source.endCopies(ctx)); err != nil {
			return err
		}
		m, err := source.Present(ctx)
		if err != nil {
			return err
		}
		m.Network.Tap = tap
		if target, err = e.spawn(ctx, peer, record{Machine: m.with(copies), Attempt: attempt, Copies: copies}); err != nil {
			return err
		}
	}
	if err := target.export(ctx, copies); err != nil {
		return err
	}
	return target.listen(ctx)
}

// target finds the process that is to take a machine over in this attempt; nil
// if there is none that is alive.
func (e *Engine) target(ctx context.Context, id, attempt string) (*Process, error) {
	peer := e.peerOf(id)
	r, err := peer.record()
	if errors.Is(err, ErrNotFound) || err == nil && r.Attempt != attempt {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	target, err := e.findIn(ctx, peer)
	if err != nil || target.isGone() {
		return nil, err
	}
	return target, nil
}

// arriving is the machine as the target of a migration begins it: forwarded
// ports are the source's until it is gone.
func (m Machine) arriving() Machine {
	if m.Network.User != nil {
		user := *m.Network.User
		user.Forward = nil
		m.Network.User = &user
	}
	return m
}

// Send begins to send a machine to its target, and returns while it is sent.
// Transfer tells the rest. Idempotent for one attempt. Errors: ErrNotFound
// without a target, ErrGone.
func (e *Engine) Send(ctx context.Context, id, attempt string, limits Limits) error {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	at, err := e.advance(ctx, id, attempt)
	if err != nil || at.State != TransferWaiting {
		if at.State == TransferNone {
			return fmt.Errorf("target of %s: %w", id, ErrNotFound)
		}
		return err
	}
	main := e.folderOf(id)
	source, err := e.findIn(ctx, main)
	if err != nil {
		return err
	}
	if main.has(savingFile) {
		return fmt.Errorf("%w: the machine's memory is being saved", ErrBusy)
	}
	peer, err := e.peerOf(id).record()
	if err != nil {
		return err
	}
	if err := source.configure(ctx, limits, len(peer.Copies) > 0); err != nil {
		return err
	}
	// Written first: whoever comes later knows that the guest is to be let go if
	// it stands still.
	copying := len(peer.Copies) > 0
	if err := main.setMove(move{Attempt: attempt, Copying: copying}); err != nil {
		return err
	}
	e.moves.watch(e, id, attempt, source)
	if copying {
		err = source.copyTo(ctx, e.peerOf(id).name(), peer.Copies, limits)
	} else {
		err = e.sendMemory(ctx, id, source)
	}
	if err != nil {
		return errors.Join(err, e.fail(ctx, id, attempt, err.Error()))
	}
	return nil
}

func (e *Engine) sendMemory(ctx context.Context, id string, source *Process) error {
	return source.send(ctx, "unix:../"+e.peerOf(id).name()+"/"+incomingSocket, e.host)
}

// Transfer tells how far a migration is, and does what is due.
func (e *Engine) Transfer(ctx context.Context, id, attempt string) (Transfer, error) {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return Transfer{}, err
	}
	defer done()
	if !idPattern.MatchString(id) {
		return Transfer{State: TransferNone}, nil
	}
	return e.advance(ctx, id, attempt)
}

// Abort ends a migration, whichever it is where none is named, and removes what is
// left of it. The guest goes on where it was, unless it runs in the target
// already: Transfer tells. Idempotent.
func (e *Engine) Abort(ctx context.Context, id, attempt string) error {
	done, err := e.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	if !idPattern.MatchString(id) || !e.Moving(id) {
		return nil
	}
	main := e.folderOf(id)
	if main.has(owedFile) {
		return e.finish(ctx, id, nil)
	}
	if attempt == "" {
		m, err := main.move()
		if err != nil {
			return err
		}
		attempt = m.Attempt
	}
	source, err := e.findIn(ctx, main)
	if err != nil {
		return err
	}
	if !source.isGone() {
		if err := source.cancelSending(ctx); err != nil && !errors.Is(err, ErrGone) {
			return err
		}
	}
	return e.fail(ctx, id, attempt, "it was aborted")
}
