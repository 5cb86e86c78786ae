package upload_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/source"
	"orlop.dev/services/image/internal/upload"
)

const owner = "0d9a6d1e"

// clock is a time that passes when the test says so.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func open(t *testing.T, o upload.Options) *upload.Store {
	t.Helper()
	s, err := upload.New(o)
	check(t, err)
	check(t, s.Open())
	return s
}

func ensure(t *testing.T, s *upload.Store, version int32) upload.State {
	t.Helper()
	state, err := s.Ensure(upload.Wish{Owner: owner, Version: version})
	check(t, err)
	return state
}

func data(size int) []byte {
	bytes := make([]byte, size)
	rand.NewChaCha8(sha256.Sum256([]byte("upload"))).Read(bytes)
	return bytes
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantReason(t *testing.T, err error, reason string) {
	t.Helper()
	if fault.ReasonOf(err) != reason {
		t.Fatalf("reason %q, want %q: %v", fault.ReasonOf(err), reason, err)
	}
}

func appended(t *testing.T, s *upload.Store, token string, offset int64, data []byte) upload.State {
	t.Helper()
	state, err := s.Append(t.Context(), token, offset, bytes.NewReader(data))
	check(t, err)
	return state
}

// content reads what an import would read, in two parts.
func content(t *testing.T, s *upload.Store) []byte {
	t.Helper()
	from := s.Source(owner)
	whole, err := from.Open(t.Context(), 0, source.Validator{})
	check(t, err)
	defer whole.Close()
	head := make([]byte, whole.Size()/2)
	_, err = io.ReadFull(whole, head)
	check(t, err)
	rest, err := from.Open(t.Context(), int64(len(head)), whole.Validator())
	check(t, err)
	defer rest.Close()
	tail, err := io.ReadAll(rest)
	check(t, err)
	return append(head, tail...)
}

func TestFileThatComesInPiecesIsWhole(t *testing.T) {
	file := data(3 << 20)
	for name, lengthKnown := range map[string]bool{"its length told": true, "its end told": false} {
		t.Run(name, func(t *testing.T) {
			s := open(t, upload.Options{Dir: t.TempDir()})
			token := ensure(t, s, 1).Token
			if lengthKnown {
				_, err := s.Begin(token, int64(len(file)), false)
				check(t, err)
			}
			broken := io.MultiReader(bytes.NewReader(file[:1<<20]), iotest.ErrReader(io.ErrUnexpectedEOF))
			state, err := s.Append(t.Context(), token, 0, broken)
			if !errors.Is(err, io.ErrUnexpectedEOF) || state.KeptBytes != 1<<20 || state.Stage != upload.Receiving {
				t.Fatalf("a sender that broke off left %+v, %v", state, err)
			}
			state = appended(t, s, token, state.KeptBytes, file[1<<20:])
			if !lengthKnown {
				if state, err = s.Finish(token); err != nil {
					t.Fatal(err)
				}
			}
			if state.Stage != upload.Complete || state.LengthBytes != int64(len(file)) {
				t.Fatalf("the whole file is %+v", state)
			}
			if !bytes.Equal(content(t, s), file) {
				t.Error("the file is another one")
			}
			_, err = s.Append(t.Context(), token, state.KeptBytes, strings.NewReader("more"))
			wantReason(t, err, upload.ReasonComplete)
			_, err = s.Finish(token)
			check(t, err)
		})
	}
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	s := open(t, upload.Options{Dir: t.TempDir(), MaxBytes: 100})
	token := ensure(t, s, 1).Token
	begin := func(length int64, restart bool) error {
		_, err := s.Begin(token, length, restart)
		return err
	}
	add := func(offset int64, size int) error {
		_, err := s.Append(t.Context(), token, offset, bytes.NewReader(data(size)))
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
		want string
	}{
		{"an unknown token", func() error { _, err := s.Get(token + "x"); return err }, upload.ReasonUnknown},
		{"no token", func() error { _, err := s.Get(""); return err }, upload.ReasonUnknown},
		{"a length above the limit", func() error { return begin(101, false) }, upload.ReasonTooLarge},
		{"no bytes", func() error { return begin(0, false) }, upload.ReasonLengthMismatch},
		{"an end before the beginning", func() error { _, err := s.Finish(token); return err }, upload.ReasonIncomplete},
		{"a gap", func() error { return add(1, 10) }, upload.ReasonOffsetMismatch},
		{"more than the limit", func() error { return add(0, 101) }, upload.ReasonTooLarge},
		{"a first piece", func() error { return add(0, 60) }, ""},
		{"the same again", func() error { return add(0, 60) }, upload.ReasonOffsetMismatch},
		{"a length below what has come", func() error { return begin(59, false) }, upload.ReasonLengthMismatch},
		{"a length", func() error { return begin(80, false) }, ""},
		{"another length", func() error { return begin(81, false) }, upload.ReasonLengthMismatch},
		{"an end too early", func() error { _, err := s.Finish(token); return err }, upload.ReasonIncomplete},
		{"more than the length", func() error { return add(60, 21) }, upload.ReasonLengthMismatch},
		{"another length, from the start", func() error { return begin(81, true) }, ""},
		{"what came before", func() error { return add(60, 21) }, upload.ReasonOffsetMismatch},
		{"the whole file", func() error { return add(0, 81) }, ""},
		{"a new start after the end", func() error { return begin(81, true) }, upload.ReasonComplete},
	} {
		if got := fault.ReasonOf(step.do()); got != step.want {
			t.Fatalf("%s: reason %q, want %q", step.name, got, step.want)
		}
	}
}

// sender is an Append whose bytes the test gives.
type sender struct {
	pipe *io.PipeWriter
	done chan error
}

func send(s *upload.Store, token string, offset int64) *sender {
	r, w := io.Pipe()
	one := &sender{pipe: w, done: make(chan error, 1)}
	go func() {
		_, err := s.Append(context.Background(), token, offset, r)
		r.CloseWithError(err)
		one.done <- err
	}()
	return one
}

func TestOneSenderAtATime(t *testing.T) {
	now := newClock()
	s := open(t, upload.Options{Dir: t.TempDir(), Now: now.Now, Stall: time.Minute})
	arrived := make(chan struct{}, 1)
	state, err := s.Ensure(upload.Wish{Owner: owner, Version: 1, Changed: func() {
		select {
		case arrived <- struct{}{}:
		default:
		}
	}})
	check(t, err)
	token := state.Token
	first := send(s, token, 0)
	_, err = first.pipe.Write([]byte("one"))
	check(t, err)
	<-arrived

	for name, other := range map[string]func() error{
		"append":  func() error { _, err := s.Append(t.Context(), token, 0, strings.NewReader("x")); return err },
		"restart": func() error { _, err := s.Begin(token, upload.UnknownLength, true); return err },
		"finish":  func() error { _, err := s.Finish(token); return err },
	} {
		if err := other(); !fault.Is(err, fault.Stale) || fault.ReasonOf(err) != upload.ReasonInProgress {
			t.Errorf("%s beside a sender: %v", name, err)
		}
	}
	if state, err := s.Get(token); err != nil || state.ReceivedBytes != 3 || state.KeptBytes != 0 {
		t.Errorf("the first sender's file is %+v, %v", state, err)
	}

	// Who leaves makes room at once.
	check(t, first.pipe.Close())
	check(t, <-first.done)
	second := send(s, token, 3)
	_, err = second.pipe.Write([]byte("two"))
	check(t, err)

	// Who is silent for too long does when somebody else comes, and can't write
	// into that one's file any more.
	now.pass(time.Minute)
	appended(t, s, token, 3, []byte("TWO"))
	if _, err := second.pipe.Write([]byte("late")); err != nil {
		wantReason(t, err, upload.ReasonInProgress)
	}
	wantReason(t, <-second.done, upload.ReasonInProgress)
	_, err = s.Finish(token)
	check(t, err)
	if got := string(content(t, s)); got != "oneTWO" {
		t.Errorf("the file is %q", got)
	}
}

func TestUploadsOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	first := open(t, upload.Options{Dir: dir})
	token := ensure(t, first, 1).Token
	if len(token) < 43 {
		t.Errorf("token %q has fewer than 256 bits", token)
	}
	appended(t, first, token, 0, []byte("kept"))
	first.Close()
	_, err := first.Get(token)
	wantReason(t, err, upload.ReasonNotServing)

	// A process that died has left more than it had made durable, and the beginnings of a record.
	part := filepath.Join(dir, owner+".part")
	check(t, os.WriteFile(part, []byte("kept and not"), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, owner+".json.new"), []byte("{"), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "nobody.part"), []byte("orphan"), 0o600))

	second := open(t, upload.Options{Dir: dir})
	state := ensure(t, second, 1)
	if state.Token != token || state.KeptBytes != 4 || state.Stage != upload.Receiving {
		t.Errorf("the next process found %+v", state)
	}
	appended(t, second, token, 4, []byte(" all"))
	_, err = second.Finish(token)
	check(t, err)
	if got := string(content(t, second)); got != "kept all" {
		t.Errorf("the file is %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "nobody.part")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file of nobody is still there: %v", err)
	}
	for _, name := range []string{owner + ".json", owner + ".part"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s can be read by others: %v %v", name, info.Mode(), err)
		}
	}
}

func TestFileThatIsGoneIsAskedForAgain(t *testing.T) {
	dir := t.TempDir()
	first := open(t, upload.Options{Dir: dir})
	token := ensure(t, first, 1).Token
	appended(t, first, token, 0, []byte("whole"))
	_, err := first.Finish(token)
	check(t, err)
	first.Close()
	check(t, os.Truncate(filepath.Join(dir, owner+".part"), 2))

	if state := ensure(t, open(t, upload.Options{Dir: dir}), 1); state.KeptBytes != 0 || state.Stage != upload.Waiting || state.Token != token {
		t.Errorf("a file that is not there is %+v", state)
	}
}

func TestAbandonedUploadExpires(t *testing.T) {
	dir, now := t.TempDir(), newClock()
	options := upload.Options{Dir: dir, Now: now.Now, Timeout: 15 * time.Minute}
	s := open(t, options)
	token := ensure(t, s, 1).Token
	now.pass(14 * time.Minute)
	appended(t, s, token, 0, []byte("a part")) // time begins anew
	now.pass(10 * time.Minute)
	check(t, s.Expire())

	// A restart makes the rest of the time no longer.
	s.Close()
	s = open(t, options)
	now.pass(5*time.Minute - time.Second)
	check(t, s.Expire())
	if state := ensure(t, s, 1); state.Stage != upload.Receiving || state.Token != token {
		t.Fatalf("too early: %+v", state)
	}
	now.pass(time.Second)
	_, err := s.Get(token)
	wantReason(t, err, upload.ReasonUnknown)
	told := 0
	_, err = s.Ensure(upload.Wish{Owner: owner, Version: 1, Changed: func() { told++ }})
	check(t, err)
	check(t, s.Expire())
	state := ensure(t, s, 1)
	if state.Stage != upload.Failed || state.Failure.Reason != upload.ReasonTimeout || state.Token != "" || told != 1 {
		t.Fatalf("an upload without bytes is %+v, and was told of %d times", state, told)
	}
	if _, err := os.Stat(filepath.Join(dir, owner+".part")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its bytes are still there: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, owner+".json"))
	check(t, err)
	if strings.Contains(string(text), token) {
		t.Error("its token is still there")
	}

	// It stays failed, until something else is wanted.
	s.Close()
	s = open(t, options)
	if state := ensure(t, s, 1); state.Stage != upload.Failed {
		t.Errorf("after a restart it is %+v", state)
	}
	if state := ensure(t, s, 2); state.Stage != upload.Waiting || state.Token == "" || state.Token == token {
		t.Errorf("another version is %+v", state)
	}
}

func TestNobodyIsPunishedForOurDowntime(t *testing.T) {
	now := newClock()
	options := upload.Options{Dir: t.TempDir(), Now: now.Now, Timeout: 15 * time.Minute}
	s := open(t, options)
	token := ensure(t, s, 1).Token
	s.Close()
	now.pass(24 * time.Hour)
	s = open(t, options)
	check(t, s.Expire())
	appended(t, s, token, 0, []byte("a part"))
	now.pass(15*time.Minute - time.Second)
	if _, err := s.Get(token); err != nil {
		t.Error(err)
	}
}

func TestAnotherVersionGetsAnotherToken(t *testing.T) {
	s := open(t, upload.Options{Dir: t.TempDir()})
	old := ensure(t, s, 1).Token
	writing := send(s, old, 0)
	_, err := writing.pipe.Write([]byte("old"))
	check(t, err)
	state := ensure(t, s, 2)
	if state.Token == old || state.KeptBytes != 0 || state.Version != 2 {
		t.Errorf("the next version is %+v", state)
	}
	_, err = writing.pipe.Write([]byte("old"))
	if err == nil {
		err = writing.pipe.Close()
	}
	if done := <-writing.done; done == nil {
		t.Errorf("the old version's sender was not told: %v", err)
	}
	_, err = s.Get(old)
	wantReason(t, err, upload.ReasonUnknown)
	appended(t, s, state.Token, 0, []byte("new"))
}

func TestFailureOfTheImportIsKept(t *testing.T) {
	dir := t.TempDir()
	s := open(t, upload.Options{Dir: dir})
	token := ensure(t, s, 1).Token
	appended(t, s, token, 0, []byte("junk"))
	_, err := s.Finish(token)
	check(t, err)
	why := upload.Failure{Reason: "ProvisioningFailed", Message: "junk"}
	for range 2 {
		check(t, s.Fail(owner, 1, why))
	}
	check(t, s.Fail(owner, 2, upload.Failure{Reason: "Else"}))
	s.Close()
	s = open(t, upload.Options{Dir: dir})
	if state := ensure(t, s, 1); state.Stage != upload.Failed || state.Failure != why {
		t.Errorf("it is %+v", state)
	}
	if _, err := s.Source(owner).Open(t.Context(), 0, source.Validator{}); failure.ReasonOf(err) != upload.ReasonLost {
		t.Errorf("its file can still be read: %v", err)
	}
	for range 2 {
		check(t, s.Drop(owner))
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// TestFullDisk fills a small file system.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("needs root to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := open(t, upload.Options{Dir: dir, SyncBytes: 1 << 20})
	token := ensure(t, s, 1).Token
	file := data(3 << 20)

	_, err := s.Begin(token, 5<<20, false)
	wantReason(t, err, upload.ReasonNoSpace)

	others := filepath.Join(dir, "others.json.d")
	check(t, os.WriteFile(others, data(2<<20), 0o600))
	state, err := s.Append(t.Context(), token, 0, bytes.NewReader(file))
	if !fault.Is(err, fault.Exhausted) || fault.ReasonOf(err) != upload.ReasonNoSpace {
		t.Fatalf("a full disk says %v", err)
	}
	if state.KeptBytes < 1<<20 || state.KeptBytes > 2<<20 {
		t.Fatalf("%d bytes are kept", state.KeptBytes)
	}
	check(t, os.Remove(others))
	state = appended(t, s, token, state.KeptBytes, file[state.KeptBytes:])
	if _, err = s.Finish(token); err != nil {
		t.Fatalf("%v after %+v", err, state)
	}
	if !bytes.Equal(content(t, s), file) {
		t.Error("the file is another one")
	}
}
