package endtoend_test

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"orlop.dev/deploy/local/internal/kubernetes"
	"orlop.dev/kit/resource/etcdtest"
)

// TestAClusterOfOnesOwn has the doors of a Kubernetes API that Orlop has not
// started, where it finds nothing of its own.
func TestAClusterOfOnesOwn(t *testing.T) {
	u := newUser(t)
	cluster := startCluster(t, u)
	u.orlop("up", "--kubeconfig", cluster.Kubeconfig())
	t.Cleanup(func() {
		if said, err := u.run(exec.Command(u.bin("orlop"), "down")); err != nil {
			t.Errorf("orlop down: %v\n%s", err, said)
		}
	})
	u.rest("POST", "/v1alpha2/namespaces/default/virtualdisks",
		`{"metadata":{"name":"blank"},"spec":{"persistentVolumeClaim":{"size":"10Mi"}}}`)
	u.appears("vd/blank")
	u.waitFor("vd/blank", "{.status.phase}", "Ready")
	// Its nodes are its own: none are simulated there.
	if got := u.kubectl("get", "nodes", "-o", "name"); strings.Contains(got, "node/") {
		t.Errorf("Orlop made %s", got)
	}
	u.kubectl("delete", "vd/blank", "--timeout", "3m")
}

// startCluster is a cluster as a user has one: an API, and nothing of Orlop's.
func startCluster(t *testing.T, u *user) *kubernetes.Server {
	t.Helper()
	etcd := etcdtest.Server(t, etcdtest.OnLoopback)
	server, err := kubernetes.Start(t.Context(), kubernetes.Options{
		Binary: u.bin("kube"), Dir: t.TempDir(), Address: netip.MustParseAddrPort("127.0.0.1:0"),
		Etcd: kubernetes.Etcd{Endpoints: []string{"http://" + etcd.Clients[0].Addr().String()}},
	})
	check(t, err)
	t.Cleanup(func() { server.Stop(context.Background()) })
	return server
}
