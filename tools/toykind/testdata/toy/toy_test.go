package toy_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"orlop.dev/deploy/local/internal/kubernetes"
	"orlop.dev/deploy/local/internal/toy"
	"orlop.dev/facade/gateway"
	facade "orlop.dev/facade/kubernetes"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	toyv1 "orlop.dev/gen/orlop/toy/v1"
	"orlop.dev/kit/auth"
	authkubernetes "orlop.dev/kit/auth/kubernetes"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"
)

const (
	facadeUser = "system:orlop:facade"
	manifest   = "apiVersion: toys.orlop.dev/v1\nkind: Toy\nmetadata: {name: cart, namespace: default}\nspec: {%}\n"
)

// house has the toy at three doors.
type house struct {
	kubectl func(t *testing.T, input string, arguments ...string) (string, error)
	toys    toyv1.ToyServiceClient
	rest    *http.Client
	url     string
	token   string
}

func TestThreeDoors(t *testing.T) {
	h := newHouse(t)
	if out, err := h.kubectl(t, strings.Replace(manifest, "%", "", 1), "apply", "-f", "-"); err != nil {
		t.Fatal(out)
	}
	if out, err := h.kubectl(t, "", "wait", "--for=jsonpath={.status.phase}=Ready", "--timeout=2m", "toy/cart"); err != nil {
		t.Fatal(out)
	}
	out, err := h.kubectl(t, "", "get", "ty")
	if err != nil || !strings.Contains(out, "PHASE") || !strings.Contains(out, "Ready") || !strings.Contains(out, "4") {
		t.Errorf("kubectl get prints\n%s", out)
	}
	if out, err := h.kubectl(t, strings.Replace(manifest, "%", "wheels: 9", 1), "apply", "-f", "-"); err == nil || !strings.Contains(out, "spec.wheels") {
		t.Errorf("nine wheels: %s", out)
	}

	byGRPC, err := h.toys.GetToy(t.Context(), &metav1.GetRequest{Namespace: "default", Name: "cart"})
	if err != nil || byGRPC.GetSpec().GetWheels() != 4 || byGRPC.GetStatus().GetPhase() != toyv1.ToyPhase_Ready {
		t.Errorf("gRPC has %v, %v", byGRPC, err)
	}

	shown := h.ask(t, http.MethodGet, "")
	if shown["kind"] != "Toy" || shown["spec"].(map[string]any)["wheels"] != 4.0 {
		t.Errorf("REST has %v", shown)
	}
	h.ask(t, http.MethodPatch, `{"spec":{"wheels":2}}`)
	if out, err := h.kubectl(t, "", "wait", "--for=jsonpath={.status.phase}=Broken", "--timeout=2m", "toy/cart"); err != nil {
		t.Fatal(out)
	}
	if out, err := h.kubectl(t, "", "delete", "toy", "cart", "--timeout=2m"); err != nil {
		t.Fatal(out)
	}
	if left, err := h.toys.ListToys(t.Context(), &metav1.ListRequest{}); err != nil || len(left.GetItems()) != 0 {
		t.Errorf("the service still has %v, %v", left, err)
	}
}

func (h *house) ask(t *testing.T, method, body string) map[string]any {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, h.url+"/v1/namespaces/default/toys/cart", strings.NewReader(body))
	check(t, err)
	request.Header.Set("Authorization", "Bearer "+h.token)
	response, err := h.rest.Do(request)
	check(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	check(t, err)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s", method, response.StatusCode, text)
	}
	var object map[string]any
	check(t, json.Unmarshal(text, &object))
	return object
}

func newHouse(t *testing.T) *house {
	t.Helper()
	bin, err := filepath.Abs("../../../../bin")
	check(t, err)
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	etcd := etcdtest.Server(t, etcdtest.OnLoopback)
	endpoint := etcd.Clients[0].Addr().String()
	server, err := kubernetes.Start(context.Background(), kubernetes.Options{
		Binary: filepath.Join(bin, "kube"), Dir: t.TempDir(), Address: netip.MustParseAddrPort("127.0.0.1:0"),
		Etcd:  kubernetes.Etcd{Endpoints: []string{"http://" + endpoint}},
		Users: []kubernetes.User{{Name: facadeUser, Groups: []string{kubernetes.Masters}}}, Logger: logger,
	})
	check(t, err)
	t.Cleanup(func() { server.Stop(context.Background()) })
	authority, err := serve.OpenAuthority(t.TempDir())
	check(t, err)
	admin, err := server.RESTConfig(kubernetes.Admin)
	check(t, err)
	h := &house{token: admin.BearerToken}
	h.kubectl = func(t *testing.T, input string, arguments ...string) (string, error) {
		t.Helper()
		command := exec.CommandContext(t.Context(), filepath.Join(bin, "kubectl"), append([]string{"--kubeconfig", server.Kubeconfig()}, arguments...)...)
		command.Stdin = strings.NewReader(input)
		out, err := command.CombinedOutput()
		return string(out), err
	}

	reviewer := authkubernetes.New(clientset.NewForConfigOrDie(admin), clock.RealClock{})
	address := serveToys(t, authority, auth.NewGuard(reviewer, reviewer), endpoint, logger)
	user, err := serve.Dial(address, serve.ClientTLS(authority.Pool()), grpc.WithPerRPCCredentials(serve.BearerToken(h.token)))
	check(t, err)
	t.Cleanup(func() { _ = user.Close() })
	h.toys = toyv1.NewToyServiceClient(user)
	h.openGateway(t, authority, address, logger)
	startFacade(t, server, authority, address, logger)
	return h
}

func serveToys(t *testing.T, authority *serve.Authority, guard *auth.Guard, endpoint string, logger *slog.Logger) string {
	t.Helper()
	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	check(t, err)
	t.Cleanup(func() { _ = etcd.Close() })
	part, err := toy.New(etcd)
	check(t, err)
	listener := listen(t)
	background(t, func(ctx context.Context) error {
		return serve.Run(ctx, serve.Config{
			Options: serve.Defaults(), Name: "toy", Guard: guard, Listener: listener, Logger: logger,
			TLS: serve.ServerTLS(certificate(t, authority), authority.Pool()),
		}, part)
	})
	check(t, part.Ready(t.Context()))
	return listener.Addr().String()
}

func (h *house) openGateway(t *testing.T, authority *serve.Authority, address string, logger *slog.Logger) {
	t.Helper()
	conn, err := serve.Dial(address, serve.ClientTLS(authority.Pool()))
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	listener := listen(t)
	background(t, func(ctx context.Context) error {
		return gateway.Run(ctx, gateway.Options{
			Listener: listener, TLS: &tls.Config{Certificates: []tls.Certificate{certificate(t, authority)}}, Logger: logger,
			Connect: func(string) (grpc.ClientConnInterface, error) { return conn, nil },
		})
	})
	h.url = "https://" + listener.Addr().String()
	h.rest = &http.Client{Transport: &http.Transport{TLSClientConfig: serve.ClientTLS(authority.Pool())}}
}

func startFacade(t *testing.T, server *kubernetes.Server, authority *serve.Authority, address string, logger *slog.Logger) {
	t.Helper()
	pair, err := authority.Service("facade")
	check(t, err)
	own, err := pair.TLS()
	check(t, err)
	conn, err := serve.Dial(address, serve.ClientTLS(authority.Pool(), own))
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	config, err := server.RESTConfig(facadeUser)
	check(t, err)
	hook := listen(t)
	check(t, hook.Close())
	operator, err := facade.New(facade.Options{
		REST: config, User: facadeUser, Logger: logger,
		Connect: func(*kind.Kind) (grpc.ClientConnInterface, error) { return conn, nil },
		Listen:  hook.Addr().String(), URL: "https://" + hook.Addr().String(),
		Certificate: certificate(t, authority), CABundle: authority.CertificatePEM(),
	})
	check(t, err)
	check(t, operator.Install(t.Context()))
	check(t, server.StartControllerManager())
	background(t, operator.Run)
}

func certificate(t *testing.T, authority *serve.Authority) tls.Certificate {
	t.Helper()
	pair, err := authority.Server("127.0.0.1")
	check(t, err)
	result, err := pair.TLS()
	check(t, err)
	return result
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	return listener
}

func background(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("something does not end")
		}
	})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
