package guest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// machine is a QEMU process of the test's own. Emulation is slow on a busy
// host, so every wait has a generous end and none has a minimum.
type machine struct {
	console *console
	agent   *wire
	monitor *wire
	sshPort int
	webPort int
	exited  chan error
}

const patience = 4 * time.Minute

// pace is how often a state is asked for that nothing announces.
const pace = 50 * time.Millisecond

type hardware struct {
	disk, seed string
	memoryMiB  int
	uefi       bool
}

// boot starts the machine and ends it with the test.
func boot(t *testing.T, hw hardware) *machine {
	t.Helper()
	// Socket paths are limited to about 100 bytes; t.TempDir's may be longer.
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &machine{sshPort: freePort(t), webPort: freePort(t), exited: make(chan error, 1)}
	command := exec.Command("qemu-system-x86_64", m.arguments(dir, hw)...)
	var complaints strings.Builder
	command.Stderr = &complaints
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { m.exited <- command.Wait() }()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		if t.Failed() {
			t.Logf("QEMU said: %s\nconsole:\n%s", complaints.String(), m.console.all())
		}
	})
	m.console = newConsole(dial(t, filepath.Join(dir, "console")))
	m.agent = newWire(dial(t, filepath.Join(dir, "agent")))
	m.monitor = newWire(dial(t, filepath.Join(dir, "monitor")))
	return m
}

func (m *machine) arguments(dir string, hw hardware) []string {
	socket := func(name string) string {
		return fmt.Sprintf("socket,id=%s,path=%s,server=on,wait=off", name, filepath.Join(dir, name))
	}
	arguments := []string{
		"-nodefaults", "-no-user-config", "-machine", "q35,vmport=off", "-accel", "tcg,thread=multi,tb-size=64",
		"-cpu", "qemu64", "-m", fmt.Sprint(hw.memoryMiB), "-display", "none",
		"-chardev", socket("monitor"), "-mon", "chardev=monitor,mode=control",
		"-chardev", socket("console"), "-serial", "chardev:console",
		"-device", "virtio-serial-pci", "-chardev", socket("agent"),
		"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
		"-device", "virtio-scsi-pci,id=scsi",
		"-drive", "if=none,id=disk,format=qcow2,file=" + hw.disk, "-device", "scsi-hd,drive=disk,bootindex=1",
		"-netdev", fmt.Sprintf("user,id=net,hostfwd=tcp:127.0.0.1:%d-:22,hostfwd=tcp:127.0.0.1:%d-:80", m.sshPort, m.webPort),
		"-device", "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile=",
		"-device", "virtio-rng-pci",
	}
	if hw.seed != "" {
		arguments = append(arguments, "-drive", "if=none,id=seed,format=raw,readonly=on,file="+hw.seed, "-device", "scsi-cd,drive=seed")
	}
	if hw.uefi {
		arguments = append(arguments, "-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd")
	}
	return arguments
}

// powerDown presses the button, and waits for the guest to end by itself.
func (m *machine) powerDown(t *testing.T) {
	t.Helper()
	m.monitor.call(t, "qmp_capabilities", nil)
	m.monitor.call(t, "system_powerdown", nil)
	select {
	case err := <-m.exited:
		if err != nil {
			t.Errorf("QEMU ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the guest ignored the power button")
	}
}

// run executes a shell command in the guest through its agent.
func (m *machine) run(t *testing.T, script string) string {
	t.Helper()
	started := m.agent.call(t, "guest-exec", map[string]any{
		"path": "/bin/sh", "arg": []string{"-c", script}, "capture-output": true,
	})
	var process struct{ PID int }
	decode(t, started, &process)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		var status struct {
			Exited   bool
			ExitCode int
			OutData  []byte `json:"out-data"`
		}
		decode(t, m.agent.call(t, "guest-exec-status", map[string]any{"pid": process.PID}), &status)
		if status.Exited {
			return string(status.OutData)
		}
	}
	t.Fatalf("%s did not end", script)
	return ""
}

// awaitFile polls for what the guest does in the background.
func (m *machine) awaitFile(t *testing.T, path string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for m.run(t, "test -e "+path+" && echo there") == "" {
		if time.Now().After(deadline) {
			t.Fatalf("%s never came", path)
		}
	}
}

// console is a serial line that a test reads and types on.
type console struct {
	conn  net.Conn
	mutex sync.Mutex
	text  strings.Builder
	read  int
	grown chan struct{}
}

func newConsole(conn net.Conn) *console {
	c := &console{conn: conn, grown: make(chan struct{}, 1)}
	go c.listen()
	return c
}

// listen ends when QEMU does, which closes the line.
func (c *console) listen() {
	buffer := make([]byte, 4096)
	for {
		n, err := c.conn.Read(buffer)
		if err != nil {
			return
		}
		c.mutex.Lock()
		c.text.Write(buffer[:n])
		c.mutex.Unlock()
		select {
		case c.grown <- struct{}{}:
		default:
		}
	}
}

func (c *console) all() string {
	if c == nil {
		return ""
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.text.String()
}

// expect waits for words that were not read before, and gives what came until
// them.
func (c *console) expect(t *testing.T, words string) string {
	t.Helper()
	timeout := time.After(patience)
	for {
		text := c.all()[c.read:]
		if before, _, found := strings.Cut(text, words); found {
			c.read += len(before) + len(words)
			return before
		}
		select {
		case <-c.grown:
		case <-timeout:
			t.Fatalf("%q never came on the console", words)
		}
	}
}

// ask types a line at a prompt, and gives what came before the next prompt.
func (c *console) ask(t *testing.T, line, prompt string) string {
	t.Helper()
	c.send(t, line)
	c.expect(t, "\n")
	return c.expect(t, prompt)
}

func (c *console) send(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(c.conn, line+"\r"); err != nil {
		t.Fatal(err)
	}
}

// wire speaks the JSON of both QMP and the guest agent.
type wire struct {
	conn   net.Conn
	reader *bufio.Reader
	next   int
}

func newWire(conn net.Conn) *wire { return &wire{conn: conn, reader: bufio.NewReader(conn)} }

type answer struct {
	ID     int
	Return json.RawMessage
	Error  *struct{ Desc string }
}

// call waits for the answer that has its id: events and answers to earlier
// questions come on the same line.
func (w *wire) call(t *testing.T, command string, arguments any) json.RawMessage {
	t.Helper()
	reply, err := w.try(command, arguments, patience)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return reply
}

func (w *wire) try(command string, arguments any, wait time.Duration) (json.RawMessage, error) {
	w.next++
	question := map[string]any{"execute": command, "id": w.next}
	if arguments != nil {
		question["arguments"] = arguments
	}
	text, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	if err := w.conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	if _, err := w.conn.Write(append(text, '\n')); err != nil {
		return nil, err
	}
	for {
		line, err := w.reader.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		var reply answer
		if err := json.Unmarshal(line, &reply); err != nil {
			return nil, err
		}
		switch {
		case reply.ID != w.next:
		case reply.Error != nil:
			return nil, errors.New(reply.Error.Desc)
		default:
			return reply.Return, nil
		}
	}
}

func decode(t *testing.T, raw json.RawMessage, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for ; ; <-tick.C {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		if ctx.Err() != nil {
			t.Fatalf("QEMU did not open %s: %v", filepath.Base(path), err)
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}
