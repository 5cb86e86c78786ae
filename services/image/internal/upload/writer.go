package upload

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"orlop.dev/kit/fault"
)

const bufferBytes = 256 << 10

// writer is the one sender of a file. It is the slot's until it ends, or another
// one takes over from it.
type writer struct {
	slot *slot
	file *os.File
	// Guarded by slot.mu: since when bytes count for the mean speed, and when the
	// last one came.
	began, heard time.Time

	at       int64 // how far the file is
	synced   int64
	syncedAt time.Time
	told     time.Time
	toldAt   int64
}

// Append writes r to the file from offset on, until r ends, and returns the state
// after it. What r gave before an error, its own or another, is kept as far as the
// state says. Where the file doesn't end at offset, or somebody else sends it, the
// fault is Stale, and r is not read.
func (s *Store) Append(ctx context.Context, token string, offset int64, r io.Reader) (State, error) {
	one, err := s.find(token)
	if err != nil {
		return State{}, err
	}
	w, err := one.acquire(offset)
	if err != nil {
		return State{}, err
	}
	copied := w.copy(ctx, r)
	state, err := w.release()
	if copied != nil {
		err = copied
	}
	return state, err
}

// idle returns why nobody else may change the file now. The caller has files.
func (s *slot) idle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.gone, s.record.Failure != nil:
		return errUnknown()
	case s.record.Complete:
		return errComplete()
	case s.writer != nil && s.options.Now().Sub(s.writer.heard) < s.options.Stall:
		return errInProgress(s.options.Stall)
	}
	return nil
}

// reset takes the file from a sender that has been silent for too long.
func (s *slot) reset(offset int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writer, s.received, s.speed = nil, offset, 0
}

// acquire begins to write at offset.
func (s *slot) acquire(offset int64) (*writer, error) {
	s.files.Lock()
	defer s.files.Unlock()
	if err := s.idle(); err != nil {
		return nil, err
	}
	if kept := s.state().KeptBytes; offset != kept {
		return nil, fault.New(fault.Stale, ReasonOffsetMismatch, "the file ends at %d, not at %d: go on there", kept, offset)
	}
	file, err := os.OpenFile(s.partPath(), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, classify(err)
	}
	// What stands behind may be of a process that died.
	if err := file.Truncate(offset); err != nil {
		return nil, classify(errors.Join(err, file.Close()))
	}
	now := s.options.Now()
	w := &writer{
		slot: s, file: file, began: now, heard: now,
		at: offset, synced: offset, syncedAt: now, told: now, toldAt: offset,
	}
	s.reset(offset)
	s.mu.Lock()
	s.writer = w
	s.mu.Unlock()
	return w, nil
}

func (w *writer) copy(ctx context.Context, r io.Reader) error {
	buffer := make([]byte, bufferBytes)
	for {
		n, err := r.Read(buffer)
		if n > 0 {
			if err := w.put(buffer[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		}
	}
}

// put writes one piece.
func (w *writer) put(data []byte) error {
	s := w.slot
	s.files.Lock()
	defer s.files.Unlock()
	if err := w.mayPut(int64(len(data))); err != nil {
		return err
	}
	first := w.at == 0
	n, err := w.file.WriteAt(data, w.at)
	w.at += int64(n)
	now := s.options.Now()
	s.mu.Lock()
	s.received, s.touched, w.heard = w.at, now, now
	s.mu.Unlock()
	if err != nil {
		return classify(err)
	}
	if w.at-w.synced >= s.options.SyncBytes || now.Sub(w.syncedAt) >= syncEvery {
		if err := w.keep(); err != nil {
			return err
		}
	}
	w.tell(now, first)
	return nil
}

// mayPut refuses what isn't this writer's to write, or too much.
func (w *writer) mayPut(bytes int64) error {
	s := w.slot
	s.mu.Lock()
	defer s.mu.Unlock()
	end := w.at + bytes
	switch {
	case s.gone, s.record.Failure != nil:
		return errUnknown()
	case s.writer != w:
		return errInProgress(s.options.Stall)
	case s.record.Length != UnknownLength && end > s.record.Length:
		return fault.New(fault.Invalid, ReasonLengthMismatch, "more bytes come than the %d of the file", s.record.Length)
	case end > s.options.MaxBytes:
		return errTooLarge(s.options.MaxBytes)
	}
	return nil
}

// keep makes durable what has arrived.
func (w *writer) keep() error {
	now := w.slot.options.Now()
	if err := w.file.Sync(); err != nil {
		return classify(err)
	}
	err := w.slot.save(func(r *record) {
		r.Offset = w.at
		r.Spent += now.Sub(w.began)
	})
	if err != nil {
		return err
	}
	w.synced, w.syncedAt = w.at, now
	w.slot.mu.Lock()
	w.began = now
	w.slot.mu.Unlock()
	return nil
}

// tell tells the owner of the first byte, and then from time to time.
func (w *writer) tell(now time.Time, first bool) {
	since := now.Sub(w.told)
	if !first && since < progressEvery {
		return
	}
	if since > 0 {
		w.slot.mu.Lock()
		w.slot.speed = int64(float64(w.at-w.toldAt) / since.Seconds())
		w.slot.mu.Unlock()
	}
	w.told, w.toldAt = now, w.at
	w.slot.tell()
}

// release ends the writing, and the upload where the file is whole.
func (w *writer) release() (State, error) {
	s := w.slot
	s.files.Lock()
	defer s.files.Unlock()
	s.mu.Lock()
	mine := s.writer == w && !s.gone
	s.mu.Unlock()
	if !mine {
		return s.state(), errors.Join(w.file.Close(), errInProgress(s.options.Stall))
	}
	err := w.settle()
	if closed := w.file.Close(); err == nil {
		err = classify(closed)
	}
	s.reset(s.state().KeptBytes)
	if err == nil && s.state().whole() {
		err = s.complete()
	}
	s.tell()
	return s.state(), err
}

// settle keeps what has arrived. A disk that is full gets the rest back, so that
// there is space for other things than half an image.
func (w *writer) settle() error {
	err := w.keep()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errors.Join(err, w.file.Truncate(w.synced))
	}
	return err
}

// complete says that what is kept is all. The caller has files.
func (s *slot) complete() error {
	return s.save(func(r *record) { r.Complete, r.Length = true, r.Offset })
}
