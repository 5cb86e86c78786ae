package upload_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"orlop.dev/services/image/internal/upload"
)

// Environment of the process that is killed.
const (
	crashDir  = "UPLOAD_TEST_DIR"
	crashSize = 8 << 20
	crashSync = 1 << 20
)

// TestMain is also a process that takes one upload from its standard input.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := receive(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func receive(dir string) error {
	s, err := upload.New(upload.Options{Dir: dir, SyncBytes: crashSync})
	if err != nil {
		return err
	}
	if err := s.Open(); err != nil {
		return err
	}
	state, err := s.Ensure(upload.Wish{Owner: owner, Version: 1})
	if err != nil {
		return err
	}
	_, err = s.Append(context.Background(), state.Token, state.KeptBytes, os.Stdin)
	return err
}

// TestKilledInTheMiddleGoesOnWhereItWasDurable kills the process that receives,
// again and again, and sends to the next one what the last had not kept.
func TestKilledInTheMiddleGoesOnWhereItWasDurable(t *testing.T) {
	dir, file := t.TempDir(), data(crashSize)
	for _, sent := range []int{crashSize / 4, crashSize / 2, crashSize/2 + 12345} {
		s := open(t, upload.Options{Dir: dir})
		kept := ensure(t, s, 1).KeptBytes
		s.Close()

		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), crashDir+"="+dir)
		child.Stderr = t.Output()
		in, err := child.StdinPipe()
		check(t, err)
		check(t, child.Start())
		// It has read all but what a pipe and a buffer hold when this returns.
		_, err = io.Copy(in, bytes.NewReader(file[kept:sent]))
		check(t, err)
		check(t, child.Process.Kill())
		if err := child.Wait(); err == nil {
			t.Fatal("the process ended by itself")
		}

		s = open(t, upload.Options{Dir: dir})
		state := ensure(t, s, 1)
		s.Close()
		if state.KeptBytes > int64(sent) || state.KeptBytes < kept || state.KeptBytes < int64(sent)-3*crashSync {
			t.Fatalf("of %d bytes %d are kept, of which %d were before", sent, state.KeptBytes, kept)
		}
	}
	s := open(t, upload.Options{Dir: dir})
	state := ensure(t, s, 1)
	appended(t, s, state.Token, state.KeptBytes, file[state.KeptBytes:])
	_, err := s.Finish(state.Token)
	check(t, err)
	if !bytes.Equal(content(t, s), file) {
		t.Error("the file is another one")
	}
}
