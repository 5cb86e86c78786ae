package qemu_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"orlop.dev/services/vm/internal/qemu"
)

// daemonJob, in the environment, makes this test program a daemon: it starts
// the machine described there, says so when its guest speaks, and waits to be
// killed.
const daemonJob = "QEMU_TEST_DAEMON_JOB"

type job struct {
	Folder    string
	Host      qemu.Host
	DiskRoots []string
	Machine   qemu.Machine
}

func TestMain(m *testing.M) {
	if text, ok := os.LookupEnv(daemonJob); ok {
		fmt.Println(serve(text))
		select {}
	}
	os.Exit(m.Run())
}

func serve(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	engine, err := qemu.New(qemu.Options{Folder: j.Folder, Host: j.Host, DiskRoots: j.DiskRoots})
	if err != nil {
		return err
	}
	p, err := engine.Start(context.Background(), j.Machine)
	if err != nil {
		return err
	}
	viewer, err := p.Console().Attach()
	if err != nil {
		return err
	}
	// Then it hears what is typed.
	return waitFor(viewer, "ready\n")
}

func TestAGuestOutlivesADaemonKilledWithItsWholeGroup(t *testing.T) {
	d := newDaemon(t)
	m := d.machine()
	text, err := json.Marshal(job{d.options.Folder, d.options.Host, d.options.DiskRoots, m})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	program := exec.Command(os.Args[0])
	program.Env = append(os.Environ(), daemonJob+"="+string(text))
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := program.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	answer, readErr := bufio.NewReader(out).ReadString('\n')
	killErr := syscall.Kill(-program.Process.Pid, syscall.SIGKILL)
	_ = program.Wait() // it was killed
	d.open()
	if readErr != nil || killErr != nil || strings.TrimSpace(answer) != "<nil>" {
		t.Fatalf("daemon: %q, %v, %v", answer, readErr, killErr)
	}
	p := d.find()
	reaches(t, p, qemu.StateRunning)
	viewer := attach(t, p)
	<-p.Console().Connected()
	send(t, viewer, "alive")
	expect(t, viewer, "alive")
}
