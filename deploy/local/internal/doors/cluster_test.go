package doors_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"orlop.dev/deploy/local/internal/kubernetes"
	"orlop.dev/kit/resource/etcdtest"
)

// The users besides the administrator and the facade.
const (
	editor = "alice"
	viewer = "bob"
)

// cluster is a Kubernetes API server, and who may ask it.
type cluster struct {
	server *kubernetes.Server
	etcd   *embed.Etcd
	kube   client.Client
	logger *slog.Logger
	// kubectl is the administrator's.
	kubectl kubectl
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the local Kubernetes API: not in the fast run")
	}
	c := &cluster{
		etcd:   etcdtest.Server(t, etcdtest.OnLoopback),
		logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	var err error
	c.server, err = kubernetes.Start(t.Context(), kubernetes.Options{
		Binary: built(t, "kube"), Dir: t.TempDir(), Address: netip.MustParseAddrPort("127.0.0.1:0"),
		Etcd: kubernetes.Etcd{Endpoints: []string{"http://" + c.etcd.Clients[0].Addr().String()}},
		Users: []kubernetes.User{
			{Name: facadeUser, Groups: []string{kubernetes.Masters}}, {Name: editor}, {Name: viewer},
		},
		Logger: c.logger,
	})
	check(t, err)
	t.Cleanup(func() { c.server.Stop(context.Background()) })
	admin, err := c.server.RESTConfig(kubernetes.Admin)
	check(t, err)
	c.kube, err = client.New(admin, client.Options{})
	check(t, err)
	c.kubectl = c.kubectlAs(t, kubernetes.Admin)
	return c
}

// built is a program that `make build` leaves in bin/.
func built(t *testing.T, name string) string {
	t.Helper()
	binary, err := filepath.Abs("../../../../bin/" + name)
	check(t, err)
	if _, err := os.Stat(binary); err != nil {
		t.Skipf("bin/%s is not built: make build builds it", name)
	}
	return binary
}

// kubectl is the program as one user runs it.
type kubectl struct {
	binary string
	flags  []string
}

func (c *cluster) kubectlAs(t *testing.T, user string) kubectl {
	t.Helper()
	config, err := c.server.RESTConfig(user)
	check(t, err)
	dir := t.TempDir()
	authority := filepath.Join(dir, "ca.crt")
	check(t, os.WriteFile(authority, config.CAData, 0o600))
	return kubectl{binary: built(t, "kubectl"), flags: []string{
		"--kubeconfig=" + os.DevNull, "--cache-dir=" + filepath.Join(dir, "cache"),
		"--server=" + config.Host, "--certificate-authority=" + authority, "--token=" + config.BearerToken,
	}}
}

// try runs kubectl with something to read. The error has what kubectl says, and
// is an *exec.ExitError.
func (k kubectl) try(t *testing.T, stdin string, arguments ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), k.binary, append(arguments, k.flags...)...)
	command.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		err = errors.Join(err, errors.New(stderr.String()))
	}
	return string(output), err
}

func (k kubectl) run(t *testing.T, arguments ...string) string {
	t.Helper()
	return k.read(t, "", arguments...)
}

func (k kubectl) read(t *testing.T, stdin string, arguments ...string) string {
	t.Helper()
	output, err := k.try(t, stdin, arguments...)
	if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(arguments, " "), err)
	}
	return output
}

// differs reports what `kubectl diff` finds: 0 is nothing, 1 something.
func (k kubectl) differs(t *testing.T, manifest string) bool {
	t.Helper()
	output, err := k.try(t, manifest, "diff", "-f", "-")
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("kubectl diff: %v", err)
	}
	if err != nil {
		t.Logf("kubectl diff:\n%s", output)
	}
	return err != nil
}
