package console_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"orlop.dev/services/vm/internal/console"
)

// line is the guest's end of a console; accept gives each new connection.
type line struct {
	t        *testing.T
	listener net.Listener
}

func open(t *testing.T) (*console.Console, line) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "serial.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	c := console.Open(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	})
	t.Cleanup(func() { c.Close() })
	return c, line{t, listener}
}

func (l line) accept() net.Conn {
	l.t.Helper()
	conn, err := l.listener.Accept()
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	return conn
}

func attach(t *testing.T, c *console.Console) *console.Viewer {
	t.Helper()
	v, err := c.Attach()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func expect(t *testing.T, from io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(from, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

func send(t *testing.T, to io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

func TestAConsoleContinuesAnother(t *testing.T) {
	source, from := open(t)
	send(t, from.accept(), "before\n")
	expect(t, attach(t, source), "before\n")
	target, to := open(t)
	guest := to.accept()
	target.Continue(source)
	send(t, guest, "after\n")
	expect(t, attach(t, target), "before\nafter\n")
}

func TestEachViewerSeesAllAndAllMayType(t *testing.T) {
	c, l := open(t)
	guest := l.accept()
	send(t, guest, "boot\n")
	first := attach(t, c)
	expect(t, first, "boot\n")
	second := attach(t, c)
	expect(t, second, "boot\n") // from the history
	send(t, guest, "login: ")
	expect(t, first, "login: ")
	expect(t, second, "login: ")
	send(t, first, "ro")
	expect(t, guest, "ro")
	send(t, second, "ot\n")
	expect(t, guest, "ot\n")
}

func TestTheHistoryIsTheLast64KiB(t *testing.T) {
	c, l := open(t)
	guest := l.accept()
	witness := attach(t, c)
	output := bytes.Repeat([]byte("0123456789abcdef"), 40<<10/16) // 40 KiB
	for round := range 8 {
		output[0] = byte('A' + round)
		send(t, guest, string(output))
		expect(t, witness, string(output))
	}
	late := attach(t, c)
	send(t, guest, "end")
	seen := make([]byte, 64<<10+3)
	if _, err := io.ReadFull(late, seen); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(seen, []byte("end")) || !bytes.Contains(seen, []byte("H123")) || bytes.Contains(seen, []byte("F123")) {
		t.Errorf("history begins with %q and ends with %q", seen[:16], seen[len(seen)-16:])
	}
}

func TestASlowViewerIsCutAndTheOthersGoOn(t *testing.T) {
	c, l := open(t)
	guest := l.accept()
	slow, quick := attach(t, c), attach(t, c)
	chunk := bytes.Repeat([]byte("x"), 16<<10)
	for range 32 { // 512 KiB, which the slow one doesn't read
		send(t, guest, string(chunk))
		expect(t, quick, string(chunk))
	}
	if _, err := io.Copy(io.Discard, slow); !errors.Is(err, console.ErrSlow) {
		t.Errorf("slow viewer: %v", err)
	}
	send(t, guest, "on")
	expect(t, quick, "on")
}

func TestTheLineIsConnectedAgain(t *testing.T) {
	c, l := open(t)
	first := l.accept()
	v := attach(t, c)
	send(t, first, "before ")
	expect(t, v, "before ")
	first.Close()
	second := l.accept()
	send(t, second, "after")
	expect(t, v, "after")
	send(t, v, "typed")
	expect(t, second, "typed")
}

func TestAGuestThatDoesNotReadBlocksNobodyForLong(t *testing.T) {
	c, l := open(t)
	guest := l.accept()
	v := attach(t, c)
	send(t, guest, "up")
	expect(t, v, "up")
	var err error
	for deadline := time.Now().Add(20 * time.Second); err == nil && time.Now().Before(deadline); {
		_, err = v.Write(make([]byte, 64<<10))
	}
	if !errors.Is(err, console.ErrInputBlocked) {
		t.Fatalf("error %v", err)
	}
	send(t, guest, "still here")
	expect(t, v, "still here")
}

func TestInputWithoutALineIsRefused(t *testing.T) {
	c := console.Open(func(context.Context) (net.Conn, error) { return nil, errors.New("nobody there") })
	defer c.Close()
	if _, err := attach(t, c).Write([]byte("x")); !errors.Is(err, console.ErrDisconnected) {
		t.Errorf("error %v", err)
	}
}

func TestCloseEndsViewersAfterTheirLastOutput(t *testing.T) {
	c, l := open(t)
	guest := l.accept()
	witness, v := attach(t, c), attach(t, c)
	send(t, guest, "bye")
	expect(t, witness, "bye")
	c.Close()
	got, err := io.ReadAll(v)
	if err != nil || string(got) != "bye" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := c.Attach(); !errors.Is(err, console.ErrClosed) {
		t.Errorf("attach: %v", err)
	}
	if _, err := v.Write([]byte("x")); !errors.Is(err, io.EOF) {
		t.Errorf("write: %v", err)
	}
}

func TestClosingAViewerWakesItsReader(t *testing.T) {
	c, l := open(t)
	l.accept()
	v := attach(t, c)
	ended := make(chan error, 1)
	go func() {
		_, err := v.Read(make([]byte, 1))
		ended <- err
	}()
	v.Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("error %v", err)
	}
}
