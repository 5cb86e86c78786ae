package upload

import (
	"syscall"

	"orlop.dev/kit/fault"
)

// What who has a token may do; see also Append.

// find returns the upload that takes files by a token.
func (s *Store) find(token string) (*slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		return nil, errNotServing()
	}
	one := s.byToken[digestOf(token)]
	if one == nil || one.overdue(s.options.Now()) {
		return nil, errUnknown()
	}
	return one, nil
}

// Get returns the state of the upload that a token is for. The fault is NotFound
// for a token that leads nowhere.
func (s *Store) Get(token string) (State, error) {
	one, err := s.find(token)
	if err != nil {
		return State{}, err
	}
	return one.state(), nil
}

// Begin notes the length of a file, unless it is UnknownLength, and drops what has
// arrived if it is to start anew.
func (s *Store) Begin(token string, lengthBytes int64, restart bool) (State, error) {
	one, err := s.find(token)
	if err != nil {
		return State{}, err
	}
	one.files.Lock()
	defer one.files.Unlock()
	if err := one.idle(); err != nil {
		return State{}, err
	}
	offset := one.state().KeptBytes
	if restart {
		offset = 0
	}
	known := one.state().LengthBytes
	if err := s.fits(lengthBytes, offset); err != nil {
		return State{}, err
	}
	if !restart && known != UnknownLength && lengthBytes != UnknownLength && lengthBytes != known {
		return State{}, fault.New(fault.Invalid, ReasonLengthMismatch,
			"the file was said to have %d bytes before, and %d now: send the same one, or start anew", known, lengthBytes)
	}
	err = one.save(func(r *record) {
		r.Offset = offset
		if restart {
			r.Length, r.Spent = UnknownLength, 0
		}
		if lengthBytes != UnknownLength {
			r.Length = lengthBytes
		}
	})
	if err != nil {
		return State{}, err
	}
	one.reset(offset)
	if one.state().whole() {
		if err := one.complete(); err != nil {
			return State{}, err
		}
	}
	one.tell()
	return one.state(), nil
}

// Finish says that the file ends here. Idempotent.
func (s *Store) Finish(token string) (State, error) {
	one, err := s.find(token)
	if err != nil {
		return State{}, err
	}
	one.files.Lock()
	defer one.files.Unlock()
	state := one.state()
	if state.Stage == Complete {
		return state, nil
	}
	if err := one.idle(); err != nil {
		return State{}, err
	}
	if state.KeptBytes == 0 || state.LengthBytes != UnknownLength && state.KeptBytes < state.LengthBytes {
		return State{}, fault.New(fault.NotReady, ReasonIncomplete, "%d bytes have arrived, and not all", state.KeptBytes)
	}
	if err := one.complete(); err != nil {
		return State{}, err
	}
	one.tell()
	return one.state(), nil
}

// fits refuses a file that is too large, for images or for the disk.
func (s *Store) fits(lengthBytes, offset int64) error {
	switch {
	case lengthBytes == UnknownLength:
		return nil
	case lengthBytes <= 0:
		return fault.New(fault.Invalid, ReasonLengthMismatch, "a file of %d bytes is no image", lengthBytes)
	case lengthBytes > s.options.MaxBytes:
		return errTooLarge(s.options.MaxBytes)
	case lengthBytes < offset:
		return fault.New(fault.Invalid, ReasonLengthMismatch, "%d bytes have arrived, more than the %d of the file", offset, lengthBytes)
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(s.options.Dir, &disk); err != nil {
		return classify(err)
	}
	if free := int64(disk.Bavail) * disk.Bsize; free < lengthBytes-offset {
		return fault.New(fault.Exhausted, ReasonNoSpace, "%d bytes are to come, and there is space for %d", lengthBytes-offset, free)
	}
	return nil
}

func errTooLarge(limit int64) error {
	return fault.New(fault.Invalid, ReasonTooLarge, "the file is larger than %d bytes, which is the limit", limit)
}
