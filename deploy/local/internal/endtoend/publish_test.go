package endtoend_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"orlop.dev/facade/home"
)

// testPublishing is the guide's "Publishing virtual machines using services": by
// node port, load balancer and Ingress, from this machine and from among guests,
// for as long as the guest is there.
func (u *user) testPublishing() {
	const answer = "<h1>linux-vm</h1>"
	u.kubectl("label", "vm", "linux-vm", "app=nginx")
	for _, example := range []string{"service-nodeport", "service-loadbalancer", "ingress"} {
		u.kubectl("apply", "-f", filepath.Join(u.root, "examples", example+".yaml"))
	}
	u.answers(answer, "http://127.0.0.1:31880/")
	balancer := u.value("svc/linux-vm-nginx-lb", "{.status.loadBalancer.ingress[0].ip}")
	u.answers(answer, "http://"+balancer+"/")
	u.columns("svc", `(?m)^linux-vm-nginx-lb +LoadBalancer +10\.222\.\d+\.\d+ +`+regexp.QuoteMeta(balancer)+` +80:\d+/TCP `)
	u.columns("svc", `(?m)^linux-vm-nginx-nodeport +NodePort +10\.222\.\d+\.\d+ +<none> +80:31880/TCP `)
	entrance := u.value("ingress/linux-vm", "{.status.loadBalancer.ingress[0].ip}")
	u.columns("ingress", `(?m)^linux-vm +orlop +linux-vm\.example\.com +`+regexp.QuoteMeta(entrance)+` +80 `)
	u.answers(answer, "--resolve", "linux-vm.example.com:80:"+entrance, "http://linux-vm.example.com/")
	u.answers("No Ingress has a rule", "http://"+entrance+"/")
	u.reachedByGuests(answer)

	u.orlop("stop", "linux-vm", "--wait")
	u.answers("No VM behind Service default/linux-vm-nginx is Ready.",
		"--resolve", "linux-vm.example.com:80:"+entrance, "http://linux-vm.example.com/")
	u.orlop("start", "linux-vm", "--wait")
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	u.answers(answer, "http://127.0.0.1:31880/")
	u.kubectl("delete", "svc/linux-vm-nginx-nodeport", "svc/linux-vm-nginx-lb", "svc/linux-vm-nginx", "ingress/linux-vm", "--timeout", "3m")
}

// reachedByGuests asks for Services from where guests are, which is kube-proxy's
// work. In user mode there is no such place.
func (u *user) reachedByGuests(answer string) {
	u.t.Helper()
	namespace := home.Home(u.home).NetworkNamespace()
	if !u.exists(namespace) {
		u.t.Log("guests have no network in common: not tried from there")
		return
	}
	inside := []string{"nsenter", "--net=" + namespace}
	node := u.value("node/node-1", `{.status.addresses[?(@.type=="InternalIP")].address}`)
	cluster := u.value("svc/linux-vm-nginx", "{.spec.clusterIP}")
	u.answersIn(inside, answer, "http://"+node+":31880/")
	u.answersIn(inside, answer, "http://"+cluster+"/")
}

func (u *user) exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// answers asks by curl until the answer has some words in it.
func (u *user) answers(words string, arguments ...string) {
	u.t.Helper()
	u.answersIn(nil, words, arguments...)
}

func curl(arguments ...string) []string {
	return append([]string{"curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "20"}, arguments...)
}

func (u *user) answersIn(prefix []string, words string, arguments ...string) {
	u.t.Helper()
	command := slices.Concat(prefix, curl(arguments...))
	u.until(words+" from "+strings.Join(arguments, " "), func() (string, bool) {
		said, _ := u.run(exec.Command(command[0], command[1:]...))
		return said, strings.Contains(said, words)
	})
}

// value waits until an object's field is there, and returns it.
func (u *user) value(object, path string) (value string) {
	u.t.Helper()
	u.until(object+" has "+path, func() (string, bool) {
		value = u.kubectl("get", object, "-o", "jsonpath="+path)
		return value, value != ""
	})
	return value
}

func (u *user) columns(what, pattern string) {
	u.t.Helper()
	if got := u.kubectl("get", what); !regexp.MustCompile(pattern).MatchString(got) {
		u.t.Errorf("get %s shows\n%s", what, got)
	}
}

// until blocks until a look shows what is wanted.
func (u *user) until(what string, look func() (seen string, done bool)) {
	u.t.Helper()
	expired := time.NewTimer(deadline)
	defer expired.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		seen, done := look()
		if done {
			return
		}
		select {
		case <-expired.C:
			u.t.Fatalf("not: %s; the last look showed\n%s", what, seen)
		case <-tick.C:
		}
	}
}
