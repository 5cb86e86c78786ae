// Package importer brings a disk image from a source into the registry: it
// reads, unpacks, judges, leaves out zeros, stores and publishes, in bounded
// memory, and goes on where a killed process stopped.
//
// It owns the order that makes this safe: the blob is stored first, inspected
// where it is stored, and only then given a name. It must not know of resources,
// phases or conditions.
package importer

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/opencontainers/go-digest"

	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/dvcr"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/source"
)

// Why an import fails, beside the reasons of the packages that it uses.
const (
	ReasonChecksum failure.Reason = "ChecksumMismatch"
	ReasonNoSpace  failure.Reason = "NoSpaceForStaging"
	ReasonStaging  failure.Reason = "StagingUnavailable"
	// ReasonStagingLost says that the staging file isn't what the checkpoint says.
	ReasonStagingLost failure.Reason = "StagingLost"
)

// Stream is a file being read from some offset on.
type Stream interface {
	io.ReadCloser
	// Size is the size of the whole file in bytes, -1 if unknown.
	Size() int64
	// Validator identifies the file's version; zero if it can't be resumed.
	Validator() source.Validator
}

// Source opens a file. Failures that may pass are retried inside.
type Source interface {
	// Open starts at offset, holding the file to validator if offset isn't 0.
	// source.ReasonChanged and ReasonCannotBeResumed say to start at 0.
	Open(ctx context.Context, offset int64, v source.Validator) (Stream, error)
}

// HTTP is the file at o.URL; o's Offset and Validator are not used.
func HTTP(o source.Options) Source { return httpSource{o} }

type httpSource struct{ options source.Options }

func (s httpSource) Open(ctx context.Context, offset int64, v source.Validator) (Stream, error) {
	o := s.options
	o.Offset, o.Validator = offset, v
	r, err := source.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Request is one image to import.
type Request struct {
	// ID names the import's staging file: unique among imports, fit for a file
	// name, and the same after a restart.
	ID     string
	Source Source
	// Checksum is of the file as downloaded.
	Checksum Checksum
	// SourceUID is published with the image: that of the object that it comes from.
	SourceUID string
	// Target and Tag are where the image is published.
	Target *dvcr.Repository
	Tag    string
	Limits diskimage.Limits
	// Progress, if set, is called from time to time and at the end.
	Progress func(Progress)
	// Checkpoints outlive the process; nil starts from the beginning each time.
	Checkpoints Checkpoints
}

// Result is a published image.
type Result struct {
	// Digest is the manifest's.
	Digest digest.Digest
	// Disk is the layer: the disk file as it is stored.
	Disk dvcr.Blob
	// Format is that of the stored file, SourceFormat that of what came.
	Format       diskimage.Format
	SourceFormat diskimage.Format
	MediaType    string
	// StoredBytes is the size of the stored file, VirtualBytes the size of the
	// disk as a guest sees it.
	StoredBytes  int64
	VirtualBytes int64
	CDROM        bool
}

// Options are common to all imports. Zero fields take the default.
type Options struct {
	// StagingDir holds a sparse file for each raw image on its way.
	StagingDir string
	// ChunkBytes is how much is sent between checkpoints at first (64 MiB): up to
	// eight times as much where that takes less than a second.
	ChunkBytes int64
	// ProgressEvery is the shortest time between calls of Progress (500 ms).
	ProgressEvery time.Duration
	// Attempts bounds tries in a row, without progress, at a registry that
	// fails (5); Initial and Max pace them (500 ms, 10 s).
	Attempts     int
	Initial, Max time.Duration
}

const (
	defaultChunkBytes = 64 << 20
	// maxRestarts bounds how often an import begins anew by itself.
	maxRestarts = 2
	// abandonWait bounds cleaning up after a failure.
	abandonWait = 10 * time.Second
)

// Importer imports images. It is safe for concurrent use, one import an ID.
type Importer struct{ options Options }

// New makes an importer.
func New(o Options) *Importer {
	if o.ChunkBytes <= 0 {
		o.ChunkBytes = defaultChunkBytes
	}
	// The writer of sparse disks counts in clusters.
	o.ChunkBytes = max(o.ChunkBytes&^(1<<16-1), 1<<16)
	if o.ProgressEvery <= 0 {
		o.ProgressEvery = 500 * time.Millisecond
	}
	if o.Attempts <= 0 {
		o.Attempts = 5
	}
	if o.Initial <= 0 {
		o.Initial = 500 * time.Millisecond
	}
	if o.Max <= 0 {
		o.Max = 10 * time.Second
	}
	return &Importer{options: o}
}

// Import blocks until the image is published, failed for good, or can't go on
// for now. It may be called again after any error: after a temporary one it goes
// on from the last checkpoint, after a terminal one it begins anew, the failed
// attempt being cleaned up.
func (i *Importer) Import(ctx context.Context, r Request) (Result, error) {
	if r.Checkpoints == nil {
		r.Checkpoints = &memory{}
	}
	j := &job{options: i.options, Request: r}
	if err := j.load(ctx); err != nil {
		return Result{}, err
	}
	result, err := j.persist(ctx)
	switch {
	case err == nil:
		return result, j.clear(ctx)
	case failure.IsTerminal(err):
		// Also when the caller has gone: what failed for good is of no use.
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonWait)
		defer cancel()
		return Result{}, errors.Join(err, j.abandon(cleanup))
	default:
		return Result{}, err
	}
}

// Forget drops what an import that won't go on has left: its staging file, its
// upload and its checkpoint. It may be repeated. Only ID, Target and Checkpoints
// of the request are used.
func (i *Importer) Forget(ctx context.Context, r Request) error {
	if r.Checkpoints == nil {
		r.Checkpoints = &memory{}
	}
	j := &job{options: i.options, Request: r}
	if err := j.load(ctx); err != nil {
		return err
	}
	return j.abandon(ctx)
}

// persist runs the job until it is done or trying at once again won't help.
func (j *job) persist(ctx context.Context) (Result, error) {
	pace := backoff.NewExponentialBackOff()
	pace.InitialInterval, pace.MaxInterval = j.options.Initial, j.options.Max
	pace.Reset()
	for restarts, attempts := 0, 0; ; {
		before := j.at
		result, err := j.run(ctx)
		if err == nil || ctx.Err() != nil {
			return result, err
		}
		if j.at != before {
			attempts = 0
			pace.Reset()
		}
		switch {
		case startsAnew(err) && j.resumed && restarts < maxRestarts:
			restarts++
			if err := j.restart(ctx, failure.ReasonOf(err)); err != nil {
				return Result{}, err
			}
		case goesOn(err) && attempts < j.options.Attempts:
			attempts++
			if err := wait(ctx, pace.NextBackOff()); err != nil {
				return Result{}, err
			}
			// What is in memory may be ahead of what is durable.
			if err := j.load(ctx); err != nil {
				return Result{}, err
			}
		default:
			return Result{}, err
		}
	}
}

// restart begins again: with the source, or, if the disk is in the staging file
// and only its upload is lost, with that.
func (j *job) restart(ctx context.Context, why failure.Reason) error {
	if why != dvcr.ReasonUploadLost || j.checkpoint.Staged == nil {
		return j.abandon(ctx)
	}
	j.checkpoint.Upload, j.checkpoint.Blob = nil, nil
	return j.save(ctx)
}

// startsAnew reports failures to go on that don't keep an import from beginning
// again.
func startsAnew(err error) bool {
	switch failure.ReasonOf(err) {
	case source.ReasonChanged, source.ReasonCannotBeResumed, dvcr.ReasonUploadLost, ReasonStagingLost:
		return true
	}
	return false
}

// goesOn reports failures of the registry's that may have passed already.
func goesOn(err error) bool {
	switch failure.ReasonOf(err) {
	case dvcr.ReasonUnavailable, dvcr.ReasonUploadMoved, dvcr.ReasonRefused, dvcr.ReasonNotFound:
		return true
	}
	return false
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// staging classifies errors of the local disk.
func staging(err error) error {
	if err == nil || failure.ReasonOf(err) != "" || errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return failure.Temporaryf(ReasonNoSpace, err, "no space is left to convert the image")
	}
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return failure.Temporaryf(ReasonStaging, err, "the image can't be converted")
	}
	return err
}
