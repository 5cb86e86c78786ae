package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"orlop.dev/services/vm/internal/qmp"
)

const greeting = `{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":""},"capabilities":["oob"]}}`

// peer is a monitor played by the test: it speaks real bytes over a real socket.
type peer struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func (p *peer) send(line string) {
	if _, err := fmt.Fprintln(p.conn, line); err != nil {
		p.t.Logf("peer: %v", err)
	}
}

func (p *peer) receive() (command, id string) {
	line, err := p.in.ReadBytes('\n')
	if err != nil {
		return "", ""
	}
	var request struct{ Execute, ID string }
	if err := json.Unmarshal(line, &request); err != nil {
		p.t.Errorf("request %q: %v", line, err)
	}
	return request.Execute, request.ID
}

func (p *peer) negotiate() {
	p.send(greeting)
	_, id := p.receive()
	p.send(`{"return":{},"id":"` + id + `"}`)
}

// listen serves one connection with the script and gives the socket's path.
func listen(t *testing.T, script func(*peer)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		script(&peer{t, conn, bufio.NewReader(conn)})
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return path
}

func dial(t *testing.T, path string) *qmp.Client {
	t.Helper()
	client, err := connect(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func connect(ctx context.Context, path string) (*qmp.Client, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return qmp.New(ctx, conn)
}

func TestExecuteDecodesTheReplyAndTheRefusal(t *testing.T) {
	client := dial(t, listen(t, func(p *peer) {
		p.negotiate()
		_, id := p.receive()
		p.send(`{"return":{"status":"running"},"id":"` + id + `"}`)
		_, id = p.receive()
		p.send(`{"error":{"class":"DeviceNotFound","desc":"Device 'x' not found"},"id":"` + id + `"}`)
		p.receive()
	}))
	if got := client.Version().String(); got != "10.0.2" {
		t.Errorf("version %s", got)
	}
	var status struct{ Status string }
	if err := client.Execute(t.Context(), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("status %q, %v", status.Status, err)
	}
	err := client.Execute(t.Context(), "device_del", map[string]string{"id": "x"}, nil)
	var refusal *qmp.Error
	if !errors.As(err, &refusal) || refusal.Class != "DeviceNotFound" || refusal.Command != "device_del" {
		t.Errorf("refusal %v", err)
	}
}

func TestRepliesOutOfOrderFindTheirCommands(t *testing.T) {
	client := dial(t, listen(t, func(p *peer) {
		p.negotiate()
		first, firstID := p.receive()
		second, secondID := p.receive()
		p.send(fmt.Sprintf(`{"return":%q,"id":%q}`, second, secondID))
		p.send(fmt.Sprintf(`{"return":%q,"id":%q}`, first, firstID))
		p.receive()
	}))
	failures := make(chan error, 2)
	for _, command := range []string{"a", "b"} {
		go func() {
			var answer string
			err := client.Execute(t.Context(), command, nil, &answer)
			if err == nil && answer != command {
				err = fmt.Errorf("command %s was given the reply of %s", command, answer)
			}
			failures <- err
		}()
	}
	for range 2 {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
}

func TestACommandGivenUpLeavesTheClientUsable(t *testing.T) {
	givenUp := make(chan struct{})
	client := dial(t, listen(t, func(p *peer) {
		p.negotiate()
		_, slow := p.receive()
		<-givenUp
		p.send(`{"return":"late","id":"` + slow + `"}`)
		_, id := p.receive()
		p.send(`{"return":"fresh","id":"` + id + `"}`)
		p.receive()
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := client.Execute(ctx, "slow", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("slow: %v", err)
	}
	close(givenUp)
	var answer string
	if err := client.Execute(t.Context(), "next", nil, &answer); err != nil || answer != "fresh" {
		t.Errorf("next: %q, %v", answer, err)
	}
}

func TestEventsArriveInOrderAndEndWithTheConnection(t *testing.T) {
	client := dial(t, listen(t, func(p *peer) {
		p.negotiate()
		p.send(`{"event":"SHUTDOWN","data":{"guest":true},"timestamp":{"seconds":5,"microseconds":7}}`)
		p.send(`{"event":"STOP","timestamp":{"seconds":6,"microseconds":0}}`)
	}))
	var names []string
	for event := range client.Events() {
		names = append(names, event.Name)
		if event.Name == "SHUTDOWN" && (string(event.Data) != `{"guest":true}` || !event.Time.Equal(time.Unix(5, 7000))) {
			t.Errorf("event %+v", event)
		}
	}
	if got := strings.Join(names, " "); got != "SHUTDOWN STOP" {
		t.Errorf("events %s", got)
	}
	<-client.Done()
	if !errors.Is(client.Err(), qmp.ErrClosed) {
		t.Errorf("err %v", client.Err())
	}
}

func TestAReplyJustBeforeTheHangUpIsDelivered(t *testing.T) {
	for range 50 {
		client := dial(t, listen(t, func(p *peer) {
			p.negotiate()
			_, id := p.receive()
			p.send(`{"return":{},"id":"` + id + `"}`)
		}))
		if err := client.Execute(t.Context(), "quit", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAPeerThatDoesNotSpeakQMPIsRefused(t *testing.T) {
	tests := map[string]struct {
		script   func(*peer)
		protocol bool
	}{
		"garbage for a greeting": {func(p *peer) { p.send("SSH-2.0-x") }, true},
		"JSON, but no greeting":  {func(p *peer) { p.send(`{"return":{}}`) }, true},
		"a greeting without end": {func(p *peer) { p.send(strings.Repeat("x", 5<<20)) }, true},
		"hang-up":                {func(*peer) {}, false},
		"garbage instead of a reply": {func(p *peer) {
			p.send(greeting)
			p.receive()
			p.send("\x00\xff{")
		}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			client, err := connect(t.Context(), listen(t, test.script))
			if err == nil {
				client.Close()
				t.Fatal("accepted")
			}
			var protocol *qmp.ProtocolError
			if errors.As(err, &protocol) != test.protocol {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestASilentPeerIsLeftWhenTheContextEnds(t *testing.T) {
	left := make(chan struct{})
	path := listen(t, func(*peer) { <-left })
	defer close(left)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := connect(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestEventsNobodyReadsEndTheConnection(t *testing.T) {
	client := dial(t, listen(t, func(p *peer) {
		p.negotiate()
		for range 1000 {
			if _, err := fmt.Fprintln(p.conn, `{"event":"RTC_CHANGE"}`); err != nil {
				return
			}
		}
		p.receive()
	}))
	<-client.Done()
	if !errors.Is(client.Err(), qmp.ErrOverrun) {
		t.Errorf("err %v", client.Err())
	}
	if err := client.Execute(t.Context(), "query-status", nil, nil); !errors.Is(err, qmp.ErrOverrun) {
		t.Errorf("execute after the end: %v", err)
	}
}

func FuzzAnyBytesFromThePeer(f *testing.F) {
	f.Add([]byte(greeting + "\n{\"return\":{},\"id\":\"1\"}\n"))
	f.Add([]byte("{}\n"))
	f.Add([]byte(greeting + "\n{\"event\":3}\n"))
	f.Fuzz(func(t *testing.T, bytes []byte) {
		ours, theirs := net.Pipe()
		go func() {
			_, _ = theirs.Write(bytes)
			_ = theirs.Close()
		}()
		go func() { _, _ = bufio.NewReader(theirs).WriteTo(discard{}) }()
		client, err := qmp.New(t.Context(), ours)
		if err != nil {
			return
		}
		defer client.Close()
		if client.Execute(t.Context(), "query-status", nil, nil) == nil {
			return
		}
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
