package endtoend_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// testMigrate moves the VM to its other node, under a connection that was opened
// before and a person at its console.
func (u *user) testMigrate() {
	process, source := u.qemuPID(), u.node()
	address, boot := u.address(), u.bootID()
	forwarded := u.forward("80")
	request := u.halfARequest(forwarded)
	watched := u.watch("vm", "linux-vm")

	u.kubectl("create", "-f", filepath.Join(u.root, "examples", "virtualmachineoperation-evict.yaml"))
	u.waitFor("vm/linux-vm", "{.status.migrationState.result}", "Succeeded")
	u.waitFor("vm/linux-vm", "{.status.phase}", "Running")
	if now := u.node(); now == source || u.qemuPID() == process {
		u.t.Errorf("it was on %s, and is on %s", source, now)
	}
	if now := u.address(); now != address {
		u.t.Errorf("its address was %s, and is %s", address, now)
	}
	if now := u.bootID(); now != boot {
		u.t.Error("the guest was started anew")
	}
	request.end(u)
	u.t.Log("\n" + watched() + u.kubectl("get", "vmop") + u.kubectl("get", "pods", "-o", "wide"))

	u.orlop("migrate", "linux-vm", "--target-node-name", source, "--wait")
	if now := u.node(); now != source {
		u.t.Errorf("told to move to %s, it is on %s", source, now)
	}
	u.kubectl("delete", "vmop", "--all")
}

func (u *user) node() string {
	return u.kubectl("get", "vm", "linux-vm", "-o", "jsonpath={.status.nodeName}")
}

// bootID is the guest's own word for one life of its kernel.
func (u *user) bootID() string {
	console := u.openConsole()
	defer console.close()
	console.knock()
	console.send("cloud\n")
	console.expect("Password: ")
	console.send("cloud\n")
	console.expect(`cloud@linux-vm:~$ `)
	console.send("cat /proc/sys/kernel/random/boot_id\n")
	said := console.expect(`cloud@linux-vm:~$ `)
	console.send("exit\n")
	return strings.TrimSpace(said[strings.Index(said, "\n"):])
}

// watch runs `kubectl get -w` until the returned function is called, which gives
// what it showed.
func (u *user) watch(args ...string) func() string {
	command := exec.Command(u.bin("kubectl"), append([]string{"get", "-w"}, args...)...)
	command.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(u.home, "kubeconfig"))
	shown := new(strings.Builder)
	command.Stdout = shown
	check(u.t, command.Start())
	return func() string {
		_ = command.Process.Kill()
		_ = command.Wait()
		return shown.String()
	}
}

// forward leads a port of this machine to one of the guest's, until the test
// ends.
func (u *user) forward(port string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(u.t, err)
	local := listener.Addr().String()
	check(u.t, listener.Close())
	_, number, _ := net.SplitHostPort(local)
	command := exec.Command(u.bin("orlop"), "port-forward", "linux-vm", number+":"+port)
	command.Env = append(os.Environ(), "ORLOP_HOME="+u.home)
	check(u.t, command.Start())
	u.t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	return local
}

// halfRequest is a connection to the guest's web server that waits for more.
type halfRequest struct{ net.Conn }

func (u *user) halfARequest(address string) halfRequest {
	give := time.NewTimer(deadline)
	defer give.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: linux-vm\r\n")
			check(u.t, err)
			return halfRequest{conn}
		}
		select {
		case <-tick.C:
		case <-give.C:
			u.t.Fatalf("no connection to the guest: %v", err)
		}
	}
}

// end sends the rest, and reads the answer.
func (h halfRequest) end(u *user) {
	defer h.Close()
	check(u.t, h.SetDeadline(time.Now().Add(deadline)))
	_, err := io.WriteString(h, "Connection: close\r\n\r\n")
	check(u.t, err)
	answer, err := http.ReadResponse(bufio.NewReader(h), nil)
	if err != nil {
		u.t.Fatalf("the connection did not survive: %v", err)
	}
	_ = answer.Body.Close()
}
