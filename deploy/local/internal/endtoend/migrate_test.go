package endtoend_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"orlop.dev/facade/home"
)

// testMigrate moves the VM to its other node, under a connection that was opened
// before and a person at its console.
func (u *user) testMigrate() {
	process, source := u.qemuPID(), u.node()
	address, boot := u.address(), u.bootID()
	session := u.greeted(u.forward("22"))
	watched := u.watch("vm", "linux-vm")
	served := u.served()

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
	session.goesOn(u)
	served()
	u.t.Log("\n" + watched() + u.kubectl("get", "vmop") + u.kubectl("get", "pods", "-o", "wide"))

	u.orlop("migrate", "linux-vm", "--target-node-name", source, "--wait")
	if now := u.node(); now != source {
		u.t.Errorf("told to move to %s, it is on %s", source, now)
	}
	u.kubectl("delete", "vmop", "--all")
}

// served asks for the guest's page through a Service, from this machine and from
// among guests, again and again until the returned function is called: no answer
// may be missing.
func (u *user) served() (end func()) {
	u.t.Helper()
	u.kubectl("label", "vm", "linux-vm", "app=nginx", "--overwrite")
	u.kubectl("apply", "-f", filepath.Join(u.root, "examples", "service-nodeport.yaml"))
	u.answers("<h1>", "http://127.0.0.1:31880/")
	ways := [][]string{curl("http://127.0.0.1:31880/")}
	if namespace := home.Home(u.home).NetworkNamespace(); u.exists(namespace) {
		cluster := u.value("svc/linux-vm-nginx-nodeport", "{.spec.clusterIP}")
		inside := []string{"nsenter", "--net=" + namespace}
		u.answersIn(inside, "<h1>", "http://"+cluster+"/")
		ways = append(ways, append(inside, curl("http://"+cluster+"/")...))
	}
	ctx, cancel := context.WithCancel(u.t.Context())
	var group sync.WaitGroup
	var missed []string
	asked := 0
	group.Go(func() {
		for ; ctx.Err() == nil; asked++ {
			way := ways[asked%len(ways)]
			if said, err := u.run(exec.Command(way[0], way[1:]...)); err != nil {
				missed = append(missed, said)
			}
		}
	})
	return func() {
		cancel()
		group.Wait()
		u.t.Logf("asked %d times", asked)
		if len(missed) > 0 || asked == 0 {
			u.t.Errorf("of %d requests to a guest that moves %d had no answer: %s", asked, len(missed), missed)
		}
		u.kubectl("delete", "svc/linux-vm-nginx-nodeport")
	}
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
	_, answer, _ := strings.Cut(said, "\n")
	return strings.TrimSpace(answer)
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

// session is a connection to the guest's SSH server, which said who it is and
// waits for the same.
type session struct {
	net.Conn
	said *bufio.Reader
}

func (u *user) greeted(address string) session {
	give := time.NewTimer(deadline)
	defer give.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			check(u.t, conn.SetDeadline(time.Now().Add(2*deadline)))
			s := session{conn, bufio.NewReader(conn)}
			banner, err := s.said.ReadString('\n')
			if err != nil || !strings.HasPrefix(banner, "SSH-2.0-") {
				u.t.Fatalf("the guest's SSH server says %q, %v", banner, err)
			}
			return s
		}
		select {
		case <-tick.C:
		case <-give.C:
			u.t.Fatalf("no connection to the guest: %v", err)
		}
	}
}

// goesOn says who calls; only then the server offers its ways to exchange keys.
func (s session) goesOn(u *user) {
	defer s.Close()
	if _, err := io.WriteString(s, "SSH-2.0-orlop\r\n"); err != nil {
		u.t.Fatalf("the connection did not survive: %v", err)
	}
	offer := make([]byte, 64)
	if _, err := io.ReadFull(s.said, offer); err != nil {
		u.t.Fatalf("the connection did not survive: %v", err)
	}
	if !strings.Contains(string(offer), "curve25519") && !strings.Contains(string(offer), "diffie-hellman") {
		u.t.Errorf("the guest's SSH server offers %q", offer)
	}
}
