package kubernetes

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Another process that runs a Server, to be killed: this test binary, told by the environment to be TestParent only.
const (
	parentEnvironment = "ORLOP_TEST_KUBERNETES_PARENT" // the Options, as JSON
	parentNamespace   = "made-by-the-parent"
)

// TestParent is the body of that process: it starts a Server, leaves a mark in it, says so, and waits to be killed.
func TestParent(t *testing.T) {
	encoded, asked := os.LookupEnv(parentEnvironment)
	if !asked {
		t.Skip("runs only as a child of other tests")
	}
	var options Options
	check(t, json.Unmarshal([]byte(encoded), &options))
	server, err := Start(t.Context(), options)
	check(t, err)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: parentNamespace}}
	_, err = clientFor(t, server, Admin).CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{})
	check(t, err)
	_, err = os.Stdout.WriteString("\nchild " + strconv.Itoa(server.apiserver.pid()) + "\n")
	check(t, err)
	<-server.Done()
}

// startParent runs TestParent and returns when its Server is up, with the process id of its kube-apiserver.
func startParent(t *testing.T, options Options) (*exec.Cmd, int) {
	t.Helper()
	encoded, err := json.Marshal(options)
	check(t, err)
	parent := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestParent$")
	parent.Env = append(os.Environ(), parentEnvironment+"="+string(encoded))
	parent.Stderr = os.Stderr
	output, err := parent.StdoutPipe()
	check(t, err)
	check(t, parent.Start())
	var said []string
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if text, isChild := strings.CutPrefix(lines.Text(), "child "); isChild {
			child, err := strconv.Atoi(text)
			check(t, err)
			return parent, child
		}
		said = append(said, lines.Text())
	}
	t.Fatalf("the parent ended: %v\n%s", parent.Wait(), strings.Join(said, "\n"))
	return nil, 0
}

// startEtcd runs an etcd in this process until the test ends and returns its URL.
func startEtcd(t *testing.T) string {
	t.Helper()
	anyPort := url.URL{Scheme: "http", Host: loopback.String()}
	config := embed.NewConfig()
	config.Dir = t.TempDir()
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{anyPort}, []url.URL{anyPort}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{anyPort}, []url.URL{anyPort}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = "fatal" // it calls its own closing an error
	config.UnsafeNoFsync = true
	etcd, err := embed.StartEtcd(config)
	check(t, err)
	t.Cleanup(etcd.Close)
	<-etcd.Server.ReadyNotify()
	return "http://" + etcd.Clients[0].Addr().String()
}

func freeAddress(t *testing.T) netip.AddrPort {
	t.Helper()
	reservation, err := reserve(loopback)
	check(t, err)
	reservation.release()
	return reservation.address
}

func readToken(t *testing.T, dir, user string) string {
	t.Helper()
	tokens, err := readTokens(folder(dir))
	check(t, err)
	return tokens[user]
}
