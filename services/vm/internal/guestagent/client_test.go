package guestagent_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"orlop.dev/services/vm/internal/guestagent"
)

// agent is the guest's side, played by the test.
type agent struct {
	conn net.Conn
	in   *bufio.Reader
}

type received struct {
	Execute   string
	Arguments struct {
		ID   int64
		Mode string
		Time int64
	}
	ID int64
}

func (a *agent) receive() (received, error) {
	line, err := a.in.ReadBytes('\n')
	if err != nil {
		return received{}, err
	}
	var r received
	err = json.Unmarshal(bytes.TrimLeft(line, "\xff"), &r)
	return r, err
}

func (a *agent) sync() {
	if r, err := a.receive(); err == nil {
		a.answer(fmt.Sprintf("\xff{\"return\":%d,\"id\":%d}", r.Arguments.ID, r.ID))
	}
}

func (a *agent) answer(line string) { _, _ = io.WriteString(a.conn, line+"\n") }

// client talks to a new agent, playing the next script, at each dial.
func client(t *testing.T, scripts ...func(*agent)) *guestagent.Client {
	t.Helper()
	next := make(chan func(*agent), len(scripts))
	for _, script := range scripts {
		next <- script
	}
	c := guestagent.New(func(context.Context) (net.Conn, error) {
		select {
		case script := <-next:
			return connect(t, script)
		default:
			return nil, errors.New("dialed more often than the test expects")
		}
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// connect gives the host's end of a socket whose other end plays the script.
func connect(t *testing.T, script func(*agent)) (net.Conn, error) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "agent.sock"))
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	ours, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		return nil, err
	}
	theirs, err := listener.Accept()
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { theirs.Close() })
	go script(&agent{theirs, bufio.NewReader(theirs)})
	return ours, nil
}

func TestRepliesToOthersAreSkipped(t *testing.T) {
	c := client(t, func(a *agent) {
		a.answer(`{"return":{"version":"stale"}}`)
		r, _ := a.receive()
		a.answer(`{"return":{"vers` + "\xff" + fmt.Sprintf(`{"return":%d}`, r.Arguments.ID))
		r, _ = a.receive()
		a.answer(`{"return":{"version":"stale, no id"}}`)
		a.answer(`{"return":{"version":"stale, other id"},"id":7}`)
		a.answer(fmt.Sprintf(`{"return":{"version":"10.0.2"},"id":%d}`, r.ID))
	})
	if info, err := c.Info(t.Context()); err != nil || info.Version != "10.0.2" || len(info.Lacks) != 3 {
		t.Errorf("it is %+v, %v", info, err)
	}
}

func TestOSInfoIsCleaned(t *testing.T) {
	c := client(t, func(a *agent) {
		a.sync()
		r, _ := a.receive()
		name := "Debian\\u001b[31m\\n" + strings.Repeat("x", 1000)
		a.answer(fmt.Sprintf(`{"return":{"id":"debian","pretty-name":"%s","kernel-release":"6.1"},"id":%d}`, name, r.ID))
	})
	info, err := c.OSInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.ID != "debian" || info.KernelRelease != "6.1" || info.Machine != "" {
		t.Errorf("info %+v", info)
	}
	if strings.ContainsAny(info.PrettyName, "\x1b\n") || len(info.PrettyName) != 256 {
		t.Errorf("pretty name %q", info.PrettyName)
	}
}

func TestInterfacesThatMakeNoSenseAreLeftOut(t *testing.T) {
	c := client(t, func(a *agent) {
		a.sync()
		r, _ := a.receive()
		a.answer(fmt.Sprintf(`{"return":[{"name":"lo"},{"name":"enp1s0","hardware-address":"52:54:00:00:00:01",`+
			`"ip-addresses":[{"ip-address":"10.66.10.14","prefix":24},{"ip-address":"fe80::1%%enp1s0","prefix":64},`+
			`{"ip-address":"nonsense","prefix":24},{"ip-address":"10.0.0.1","prefix":99}]}],"id":%d}`, r.ID))
	})
	interfaces, err := c.NetworkInterfaces(t.Context())
	if err != nil || len(interfaces) != 2 {
		t.Fatalf("%+v, %v", interfaces, err)
	}
	got := fmt.Sprintf("%s %s %v", interfaces[1].Name, interfaces[1].MAC, interfaces[1].Addresses)
	if got != "enp1s0 52:54:00:00:00:01 [10.66.10.14/24 fe80::1/64]" {
		t.Errorf("got %s", got)
	}
	if interfaces[0].MAC != nil || interfaces[0].Addresses != nil {
		t.Errorf("lo: %+v", interfaces[0])
	}
}

func TestDisksThatMakeNoSenseAreLeftOut(t *testing.T) {
	c := client(t, func(a *agent) {
		a.sync()
		r, _ := a.receive()
		a.answer(fmt.Sprintf(`{"return":[{"name":"/dev/sda1","partition":true,"address":{"serial":"0QEMU_a"}},`+
			`{"name":"/dev/sda","address":{"serial":"0QEMU_a"}},{"name":"/dev/sdc","address":{"serial":"0QEMU_c"}},`+
			`{"name":"/dev/../etc","address":{"serial":"0QEMU_d"}},{"name":"/dev/sr0","address":{"target":0}},`+
			`{"name":"/dev/loop0"}],"id":%d}`, r.ID))
	})
	disks, err := c.Disks(t.Context())
	if err != nil || fmt.Sprint(disks) != "map[0QEMU_a:sda 0QEMU_c:sdc]" {
		t.Errorf("%v, %v", disks, err)
	}
}

func TestARefusalKeepsTheConnection(t *testing.T) {
	c := client(t, func(a *agent) {
		a.sync()
		r, _ := a.receive()
		a.answer(fmt.Sprintf(`{"error":{"class":"CommandNotFound","desc":"no"},"id":%d}`, r.ID))
		r, _ = a.receive()
		a.answer(fmt.Sprintf(`{"return":{},"id":%d}`, r.ID))
	})
	_, err := c.OSInfo(t.Context())
	var refusal *guestagent.Error
	if !errors.As(err, &refusal) || refusal.Class != "CommandNotFound" || refusal.Command != "guest-get-osinfo" {
		t.Errorf("error %v", err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("ping: %v", err)
	}
}

func TestTheClockIsSetToTheHosts(t *testing.T) {
	var told int64
	c := client(t, func(a *agent) {
		a.sync()
		r, _ := a.receive()
		if r.Execute == "guest-set-time" {
			told = r.Arguments.Time
		}
		a.answer(fmt.Sprintf(`{"return":{},"id":%d}`, r.ID))
	})
	before := time.Now().UnixNano()
	if err := c.SetClock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := time.Now().UnixNano(); told < before || told > after {
		t.Errorf("the guest is told %d, between %d and %d", told, before, after)
	}
}

func TestAHungAgentIsLeftAndAskedAnewLater(t *testing.T) {
	c := client(t,
		func(a *agent) { a.sync(); _, _ = a.receive() },
		func(a *agent) {
			a.sync()
			r, _ := a.receive()
			a.answer(fmt.Sprintf(`{"return":{},"id":%d}`, r.ID))
		})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := c.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hung: %v", err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("later: %v", err)
	}
}

func TestCancelWakesARequest(t *testing.T) {
	asked := make(chan struct{})
	c := client(t, func(a *agent) { a.sync(); _, _ = a.receive(); close(asked) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if err := c.Ping(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestAFloodIsCutOff(t *testing.T) {
	floods := map[string]func(*agent){
		"one endless line": func(a *agent) {
			for chunk := strings.Repeat("x", 64<<10); ; {
				if _, err := io.WriteString(a.conn, chunk); err != nil {
					return
				}
			}
		},
		"endless lines for others": func(a *agent) {
			for chunk := strings.Repeat(`{"return":{},"id":1}`+"\n", 1000); ; {
				if _, err := io.WriteString(a.conn, chunk); err != nil {
					return
				}
			}
		},
	}
	for name, flood := range floods {
		t.Run(name, func(t *testing.T) {
			c := client(t, func(a *agent) { a.sync(); _, _ = a.receive(); flood(a) })
			if err := c.Ping(t.Context()); !errors.Is(err, guestagent.ErrFlood) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestShutdownDoesNotWaitForAReply(t *testing.T) {
	mode := make(chan string, 1)
	c := client(t, func(a *agent) {
		a.sync()
		r, _ := a.receive()
		mode <- r.Execute + " " + r.Arguments.Mode
	})
	if err := c.Shutdown(t.Context(), guestagent.ModePowerdown); err != nil {
		t.Fatal(err)
	}
	if got := <-mode; got != "guest-shutdown powerdown" {
		t.Errorf("got %s", got)
	}
}

func TestAClosedClientRefuses(t *testing.T) {
	c := client(t)
	c.Close()
	if err := c.Ping(t.Context()); !errors.Is(err, guestagent.ErrClosed) {
		t.Errorf("error %v", err)
	}
}

func TestCloseEndsARequest(t *testing.T) {
	asked := make(chan struct{})
	c := client(t, func(a *agent) { a.sync(); _, _ = a.receive(); close(asked) })
	go func() { <-asked; c.Close() }()
	if err := c.Ping(t.Context()); !errors.Is(err, guestagent.ErrClosed) {
		t.Errorf("error %v", err)
	}
}

// The real agent, run on this host: it only answers questions here.
func TestTheRealAgentAnswers(t *testing.T) {
	binary, err := exec.LookPath("qemu-ga")
	if err != nil {
		t.Skip("qemu-ga is not installed")
	}
	path := filepath.Join(t.TempDir(), "ga.sock")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	run := exec.CommandContext(ctx, binary, "-m", "unix-listen", "-p", path, "-t", t.TempDir(),
		"--allow-rpcs=guest-sync-delimited,guest-ping,guest-info,guest-get-osinfo,guest-network-get-interfaces,guest-get-users,guest-get-fsinfo")
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = run.Wait() }()
	c := guestagent.New(func(ctx context.Context) (net.Conn, error) { return dialWhenThere(ctx, path) })
	defer c.Close()
	about, err := c.Info(ctx)
	if err != nil || about.Version == "" || !slices.Equal(about.Lacks, []string{"guest-fsfreeze-freeze", "guest-fsfreeze-thaw"}) {
		t.Fatalf("it is %+v, %v", about, err)
	}
	if _, err := c.Users(ctx); err != nil {
		t.Errorf("users: %v", err)
	}
	mounted, err := c.Filesystems(ctx)
	if err != nil || slices.ContainsFunc(mounted, func(f guestagent.Filesystem) bool { return f.Mountpoint == "" }) {
		t.Errorf("file systems %+v, %v", mounted, err)
	}
	if info, err := c.OSInfo(ctx); err != nil || info.ID == "" || info.KernelRelease == "" {
		t.Errorf("info %+v, %v", info, err)
	}
	interfaces, err := c.NetworkInterfaces(ctx)
	if err != nil || !slices.ContainsFunc(interfaces, func(i guestagent.Interface) bool { return i.Name == "lo" }) {
		t.Errorf("interfaces %+v, %v", interfaces, err)
	}
	var refusal *guestagent.Error
	if err := c.Shutdown(ctx, "no-such-mode"); err != nil && !errors.As(err, &refusal) {
		t.Errorf("shutdown: %v", err)
	}
	if err := c.Ping(ctx); err != nil {
		t.Errorf("ping after a refusal nobody waited for: %v", err)
	}
}

func dialWhenThere(ctx context.Context, path string) (net.Conn, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}
