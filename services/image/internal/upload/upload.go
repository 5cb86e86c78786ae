// Package upload takes files that users send: slots that wait for a file, each
// known by a secret token, what has arrived of it, and the service by which it
// comes (UploadService).
//
// It owns the files until they are imported, and when to stop waiting for them. It
// must not know what is in a file, nor what it is wanted for.
package upload

import (
	"log/slog"
	"math"
	"time"

	"orlop.dev/kit/fault"
)

// Reasons of faults, and of failures.
const (
	// ReasonUnknown is that of a token that leads nowhere, or no more.
	ReasonUnknown = "UploadUnknown"
	// ReasonInProgress says that somebody else sends the file.
	ReasonInProgress = "UploadInProgress"
	// ReasonOffsetMismatch says that the file ends somewhere else.
	ReasonOffsetMismatch = "UploadOffsetMismatch"
	// ReasonLengthMismatch says that the file has another length than was told.
	ReasonLengthMismatch = "UploadLengthMismatch"
	// ReasonComplete says that all has arrived already.
	ReasonComplete = "UploadComplete"
	// ReasonIncomplete says that not all has arrived.
	ReasonIncomplete = "UploadIncomplete"
	// ReasonTooLarge says that no image may be as large as the file.
	ReasonTooLarge = "UploadTooLarge"
	// ReasonNoSpace says that the file doesn't fit on the disk.
	ReasonNoSpace = "NoSpaceForUpload"
	// ReasonStorage says that the disk doesn't work.
	ReasonStorage = "UploadStorageUnavailable"
	// ReasonNotServing says that this process doesn't take uploads now.
	ReasonNotServing = "UploadsNotServed"
	// ReasonTimeout is that of an upload that nobody went on with. It is also the
	// platform's reason in conditions (api.md, A.2).
	ReasonTimeout = "WaitForUserUploadTimeout"
)

// UnknownLength is the length of a file of which nobody told it.
const UnknownLength = -1

// Stage says where an upload is.
type Stage int

const (
	// Waiting says that no byte has arrived.
	Waiting Stage = iota
	// Receiving says that a part has arrived. More may come, or not.
	Receiving
	// Complete says that all has arrived; see Store.Source.
	Complete
	// Failed says that the file was given up, for good.
	Failed
)

// Wish is a file that is waited for.
type Wish struct {
	// Owner is unique among those who wait for files, and fit for a file name: a UID.
	Owner string
	// Version is that of the wish; the file of another one is dropped.
	Version int32
	// Changed is called when State is another one: at most once a second for
	// progress, at once for a stage. It must not block.
	Changed func()
}

// State is how far an upload is.
type State struct {
	Version int32
	Stage   Stage
	// Token is the secret by which the file is sent. It is empty once no more is
	// taken.
	Token string
	// KeptBytes are durable; ReceivedBytes have arrived.
	KeptBytes, ReceivedBytes int64
	// LengthBytes is the size of the whole file, or UnknownLength.
	LengthBytes int64
	// BytesPerSecond is the present speed, AverageBytesPerSecond that of the times
	// in which the file came.
	BytesPerSecond, AverageBytesPerSecond int64
	// Deadline is when the upload fails if no byte arrives before.
	Deadline time.Time
	// Failure is why it failed.
	Failure Failure
}

// whole reports whether the last byte of a file of known length is kept.
func (s State) whole() bool { return s.KeptBytes == s.LengthBytes }

// Failure says why an upload was given up: a reason for programs and words for people.
type Failure struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Defaults of Options.
const (
	DefaultTimeout = 15 * time.Minute
	defaultStall   = 30 * time.Second
	// graceAfterStart is what an upload has at least after a restart: while
	// nobody served, nobody could go on.
	graceAfterStart  = 2 * time.Minute
	defaultSyncBytes = 32 << 20
	syncEvery        = 5 * time.Second
	progressEvery    = time.Second
)

// Options tune a Store. Dir is required.
type Options struct {
	// Dir holds the files and, with mode 0600, the tokens. It must be this store's
	// alone, and is made if missing.
	Dir string
	// MaxBytes is the largest file (no limit).
	MaxBytes int64
	// Timeout is how long an upload is waited for without a byte (DefaultTimeout).
	Timeout time.Duration
	// Stall is how long a sender may be silent before another one may take over (30 s).
	Stall time.Duration
	// SyncBytes is how much is written between two points that are durable (32 MiB).
	SyncBytes int64
	// Now is time.Now where it is nil.
	Now func() time.Time
	// Logger is slog.Default() where it is nil.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.MaxBytes <= 0 {
		o.MaxBytes = math.MaxInt64
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Stall <= 0 {
		o.Stall = defaultStall
	}
	if o.SyncBytes <= 0 {
		o.SyncBytes = defaultSyncBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

func errUnknown() error {
	return fault.New(fault.NotFound, ReasonUnknown, "there is no such upload, or its time is over")
}

func errInProgress(stall time.Duration) error {
	return fault.New(fault.Stale, ReasonInProgress,
		"somebody else sends the file: wait for the end, or %s after its last byte", stall).WithRetryAfter(time.Second)
}

func errComplete() error {
	return fault.New(fault.Exists, ReasonComplete, "the file has arrived already")
}

func errNotServing() error {
	return fault.New(fault.Transient, ReasonNotServing, "uploads are not taken here for now").WithRetryAfter(time.Second)
}
