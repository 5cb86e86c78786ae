package upload

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"orlop.dev/kit/durable"
	"orlop.dev/kit/fault"
)

const (
	tokenBytes = 32
	recordEnd  = ".json"
	partEnd    = ".part"
)

// digest is what a token is looked up by, so that the time of a look tells
// nothing of the tokens that there are.
type digest [sha256.Size]byte

func digestOf(token string) digest { return sha256.Sum256([]byte(token)) }

func newToken() string {
	var secret [tokenBytes]byte
	_, _ = rand.Read(secret[:]) // never fails: crypto/rand ends the process instead
	return base64.RawURLEncoding.EncodeToString(secret[:])
}

// record is what is durable of an upload, beside the file.
type record struct {
	Version int32 `json:"version"`
	// Token is a secret. It is empty once the upload has failed.
	Token string `json:"token,omitempty"`
	// Offset is how much of the file is durable.
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
	// Complete says that Offset bytes are all.
	Complete bool `json:"complete,omitempty"`
	// Touched is when the last byte came; when the upload began if none did.
	Touched time.Time `json:"touched"`
	// Spent is how long bytes have been coming.
	Spent   time.Duration `json:"spent,omitempty"`
	Failure *Failure      `json:"failure,omitempty"`
}

// slot is one upload.
type slot struct {
	options Options
	owner   string

	// files guards what is on disk and is taken before mu, which guards the rest.
	files sync.Mutex

	mu       sync.Mutex
	record   record // as on disk
	gone     bool   // dropped: nothing more is written
	writer   *writer
	received int64
	touched  time.Time
	grace    time.Time
	speed    int64
	changed  func()
}

func (s *slot) recordPath() string { return filepath.Join(s.options.Dir, s.owner+recordEnd) }
func (s *slot) partPath() string   { return filepath.Join(s.options.Dir, s.owner+partEnd) }

// load reads what an earlier process has left; false if it can't be understood.
func (s *slot) load() (bool, error) {
	text, err := os.ReadFile(s.recordPath())
	if err != nil {
		return false, err
	}
	if json.Unmarshal(text, &s.record) != nil {
		return false, nil //nolint:nilerr // The owner begins anew.
	}
	stat, err := os.Stat(s.partPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if s.record.Failure == nil && (stat == nil || stat.Size() < s.record.Offset) {
		// What is not there can't be gone on with.
		s.record.Offset, s.record.Complete = 0, false
	}
	s.received, s.touched = s.record.Offset, s.record.Touched
	s.grace = s.options.Now().Add(min(graceAfterStart, s.options.Timeout))
	return true, nil
}

// save changes what is durable. The caller has files.
func (s *slot) save(change func(*record)) error {
	s.mu.Lock()
	next, gone := s.record, s.gone
	next.Touched = s.touched
	s.mu.Unlock()
	if gone {
		return errUnknown()
	}
	change(&next)
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := durable.WriteFile(s.recordPath(), text, 0o600); err != nil {
		return classify(err)
	}
	s.mu.Lock()
	s.record = next
	s.mu.Unlock()
	return nil
}

// stop lets nobody write any more. When it returns, nobody does, and nobody is
// told of anything.
func (s *slot) stop() {
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	s.files.Lock() // waits for a write under way
	defer s.files.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = nil
}

// drop forgets the upload and all that is on disk of it. It may be repeated.
func (s *slot) drop() error {
	s.stop()
	return errors.Join(durable.Remove(s.partPath()), durable.Remove(s.recordPath()))
}

// fail gives the upload up: why is all that is kept.
func (s *slot) fail(why Failure) error {
	s.files.Lock()
	defer s.files.Unlock()
	err := s.save(func(r *record) {
		*r = record{Version: r.Version, Length: UnknownLength, Touched: r.Touched, Failure: &why}
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.writer, s.received, s.speed = nil, 0, 0
	s.mu.Unlock()
	s.tell()
	return classify(durable.Remove(s.partPath()))
}

// overdue reports whether nobody has gone on with the upload for too long.
func (s *slot) overdue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record.Failure == nil && !s.record.Complete && !now.Before(s.deadline())
}

// deadline is for who has mu.
func (s *slot) deadline() time.Time {
	at := s.touched.Add(s.options.Timeout)
	if at.Before(s.grace) {
		return s.grace
	}
	return at
}

func (s *slot) state() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.record
	state := State{
		Version: r.Version, Token: r.Token, KeptBytes: r.Offset, ReceivedBytes: s.received, LengthBytes: r.Length,
	}
	spent := r.Spent
	if s.writer != nil {
		spent += s.options.Now().Sub(s.writer.began)
		state.BytesPerSecond = s.speed
	}
	if spent > 0 {
		state.AverageBytesPerSecond = int64(float64(s.received) / spent.Seconds())
	}
	switch {
	case r.Failure != nil:
		state.Stage, state.Failure = Failed, *r.Failure
	case r.Complete:
		state.Stage, state.Token = Complete, ""
	default:
		state.Deadline = s.deadline()
		if s.received > 0 {
			state.Stage = Receiving
		}
	}
	return state
}

// tag identifies the content of a file that is complete.
func (s *slot) tag() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := digestOf(s.record.Token)
	return `"upload-` + hex.EncodeToString(sum[:8]) + `"`
}

func (s *slot) tell() {
	s.mu.Lock()
	changed := s.changed
	s.mu.Unlock()
	if changed != nil {
		changed()
	}
}

// classify makes faults of the disk's errors.
func classify(err error) error {
	var known *fault.Fault
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Wrap(err, fault.Exhausted, ReasonNoSpace,
			"no space is left for the file: what has arrived is kept, go on when there is some")
	}
	return fault.Wrap(err, fault.Transient, ReasonStorage, "the file can't be stored for now")
}
