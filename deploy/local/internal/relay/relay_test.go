package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"orlop.dev/deploy/local/internal/relay"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// start runs a relay until stop, which returns when nothing of it is left.
func start(t *testing.T, r *relay.Relay) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return stop
}

func dial(t *testing.T, at net.Addr) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

// TestAnAnswerComesAfterTheQuestionHasEnded is how nc and HTTP/1.0 talk.
func TestAnAnswerComesAfterTheQuestionHasEnded(t *testing.T) {
	far, near := listen(t), listen(t)
	go func() {
		conn, err := far.Accept()
		if err != nil {
			return
		}
		question, _ := io.ReadAll(conn)
		_, _ = conn.Write(append([]byte("you said "), question...))
		_ = conn.Close()
	}()
	start(t, &relay.Relay{Listener: near, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", far.Addr().String())
	}})
	conn := dial(t, near.Addr())
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "you said hello" {
		t.Errorf("heard %q, %v", answer, err)
	}
}

func TestItsEndClosesWhatIsOpen(t *testing.T) {
	far, near := listen(t), listen(t)
	stop := start(t, &relay.Relay{Listener: near, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", far.Addr().String())
	}})
	conn := dial(t, near.Addr())
	inside, err := far.Accept()
	if err != nil {
		t.Fatal(err)
	}
	stop()
	for _, end := range []net.Conn{conn, inside} {
		if _, err := end.Read(make([]byte, 1)); err == nil {
			t.Error("a connection is still open")
		}
	}
	if _, err := net.Dial("tcp", near.Addr().String()); err == nil {
		t.Error("the listener is still open")
	}
}

func TestAPlaceThatCannotBeReachedEndsTheConnection(t *testing.T) {
	near := listen(t)
	start(t, &relay.Relay{Listener: near, Dial: func(context.Context) (net.Conn, error) {
		return nil, errors.New("nobody there")
	}})
	if _, err := dial(t, near.Addr()).Read(make([]byte, 1)); err == nil {
		t.Error("somebody answered")
	}
}
