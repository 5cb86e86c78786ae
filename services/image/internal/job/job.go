// Package job runs imports in the background, a few at a time, and tells how far
// each is. Imports that failed for now are tried again, with back-off; those of a
// process that died go on from what it left in the staging directory.
//
// It owns the life of an import: start, progress, retries, end. It must not know
// why an image is wanted, nor what its status says.
package job

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"

	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/importer"
)

// Stage says where an import is.
type Stage int

const (
	// Starting is the first: it was asked for a moment ago.
	Starting Stage = iota
	// Queued says that as many imports as may run do.
	Queued
	// Running says that the file is read or stored; see State.Progress.
	Running
	// Retrying says that it failed for now and is tried again at State.Next.
	Retrying
	// Stopping says that it was cancelled and hasn't ended yet.
	Stopping
	// Failed says that it failed for good.
	Failed
	// Done says that the image is published.
	Done
)

// Ended reports whether nothing happens any more.
func (s Stage) Ended() bool { return s == Failed || s == Done }

// Task is an image to import.
type Task struct {
	// UID names the import, and its files in the staging directory.
	UID string
	// Version is that of the wish: an import of another version is not gone on with.
	Version int32
	// Source is the file. It must be there: what waits for its file is no task yet.
	Source   importer.Source
	Checksum importer.Checksum
	// SourceUID is published with the image.
	SourceUID string
	// Repository and Tag are where the image is published.
	Repository, Tag string
	// Changed is called when State is another one: at most once a second for
	// progress, at once for a stage. It must not block.
	Changed func()
}

// State is how far an import is.
type State struct {
	Version  int32
	Stage    Stage
	Progress importer.Progress
	// Err is why it last failed, for Retrying and Failed, and for Running after
	// a failure.
	Err error
	// Next is when it is tried again, for Retrying.
	Next time.Time
}

// job is a task at work.
type job struct {
	pool   *Pool
	task   Task
	state  State              // guarded by pool.mu
	cancel context.CancelFunc // guarded by pool.mu; nil before the work begins
}

// set changes the state and tells of it.
func (j *job) set(change func(*State)) {
	j.pool.mu.Lock()
	if j.state.Stage != Stopping {
		change(&j.state)
	}
	j.pool.mu.Unlock()
	j.task.Changed()
}

// begin makes the context of the job's work; false if it was stopped already.
func (j *job) begin(ctx context.Context) (context.Context, bool) {
	j.pool.mu.Lock()
	defer j.pool.mu.Unlock()
	if j.state.Stage == Stopping {
		return nil, false
	}
	ctx, j.cancel = context.WithCancel(ctx)
	return ctx, true
}

// work imports until that is done, fails for good, or ctx ends.
func (j *job) work(ctx context.Context) {
	defer j.pool.leave(j)
	ctx, wanted := j.begin(ctx)
	if !wanted {
		return
	}
	defer j.cancel()
	pace := backoff.NewExponentialBackOff()
	pace.InitialInterval, pace.MaxInterval = j.pool.options.Initial, j.pool.options.Max
	pace.Reset()
	for {
		before := j.read()
		err := j.attempt(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil:
			j.set(func(s *State) { s.Stage, s.Err = Done, nil })
			return
		case failure.IsTerminal(err):
			j.log("the import failed", err)
			j.set(func(s *State) { s.Stage, s.Err = Failed, err })
			return
		}
		if j.read() > before {
			pace.Reset()
		}
		if !j.pause(ctx, err, pace.NextBackOff()) {
			return
		}
	}
}

// pause waits before the next attempt; false if ctx ended.
func (j *job) pause(ctx context.Context, err error, d time.Duration) bool {
	j.log("the import failed for now", err)
	j.set(func(s *State) { s.Stage, s.Err, s.Next = Retrying, err, time.Now().Add(d) })
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// attempt imports once, when it is its turn.
func (j *job) attempt(ctx context.Context) error {
	if err := j.turn(ctx); err != nil {
		return err
	}
	defer func() { <-j.pool.slots }()
	j.set(func(s *State) { s.Stage = Running })
	request, file, err := j.pool.request(j.task)
	if err != nil {
		return err
	}
	if err := j.pool.forgetOther(ctx, request, file); err != nil {
		return err
	}
	request.Progress = func(p importer.Progress) { j.set(func(s *State) { s.Progress = p }) }
	if _, err = j.pool.importer.Import(ctx, request); err != nil {
		return err
	}
	return file.publish()
}

// turn waits for one of the places of imports that run.
func (j *job) turn(ctx context.Context) error {
	select {
	case j.pool.slots <- struct{}{}:
		return nil
	default:
	}
	j.set(func(s *State) { s.Stage = Queued })
	select {
	case j.pool.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (j *job) read() int64 {
	j.pool.mu.Lock()
	defer j.pool.mu.Unlock()
	return j.state.Progress.ReadBytes
}

func (j *job) log(message string, err error) {
	j.pool.options.Logger.Warn(message, "repository", j.task.Repository, "uid", j.task.UID,
		"reason", string(failure.ReasonOf(err)), "error", err)
}

// Explain is an import's failure in words for people. What nobody classified
// stays in the log.
func Explain(err error) string {
	classified, ok := errors.AsType[*failure.Error](err)
	if !ok {
		return "the import can't go on for now; the log of the image service says why"
	}
	return string(classified.Reason) + ": " + classified.Error()
}
