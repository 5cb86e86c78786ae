package main

import (
	"context"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"
)

const patience = 20 * time.Second

// freeAddress is one of this machine that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// credentials writes what the process needs to be known and to know others.
func credentials(t *testing.T, dir string) (args []string, roots *x509.CertPool) {
	t.Helper()
	authority, err := serve.OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Server()
	if err != nil {
		t.Fatal(err)
	}
	certificate, key, tokens := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "tokens")
	if err := pair.Write(certificate, key); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tokens, []byte("letmein,admin,1,system:masters\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--tls-certificate=" + certificate, "--tls-key=" + key, "--token-file=" + tokens}, authority.Pool()
}

func dial(t *testing.T, address string, roots *x509.CertPool, options ...grpc.DialOption) *resource.Client[*networkv1.VirtualMachineIPAddress] {
	t.Helper()
	options = append(options, grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	conn, err := serve.Dial(address, serve.ClientTLS(roots), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client, err := resource.NewClient[*networkv1.VirtualMachineIPAddress](conn, kind.Must(&networkv1.VirtualMachineIPAddress{}))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestProcessGivesAnAddressToWhoeverMayAsk(t *testing.T) {
	dir, address := t.TempDir(), freeAddress(t)
	args, roots := credentials(t, dir)
	args = append(args, "--address="+address, "--etcd="+strings.Join(etcdtest.Start(t).Endpoints(), ","),
		"--mode=user", "--virtual-machine-cidrs=10.66.10.0/24", "--state-dir="+filepath.Join(dir, "state"))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, args) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	calls, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	stranger := dial(t, address, roots)
	if _, err := stranger.List(calls, resource.ListOptions{}); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a stranger: %v", err)
	}
	admin := dial(t, address, roots, grpc.WithPerRPCCredentials(serve.BearerToken("letmein")))
	ip := &networkv1.VirtualMachineIPAddress{
		Metadata: &metav1.ObjectMeta{Namespace: "default", GenerateName: "vm-"},
		Spec:     &networkv1.VirtualMachineIPAddressSpec{Type: networkv1.IPAddressType_Auto},
	}
	created, err := create(calls, admin, ip)
	if err != nil {
		t.Fatal(err)
	}
	for event, err := range admin.Watch(calls, resource.WatchOptions{Namespace: "default"}) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Type != resource.Bookmark && resource.KeyOf(event.Object) == resource.KeyOf(created) &&
			strings.HasPrefix(event.Object.GetStatus().GetAddress(), "10.66.10.") {
			break
		}
	}
}

// create tries until the store's copy is there: a process answers before that.
func create(ctx context.Context, client *resource.Client[*networkv1.VirtualMachineIPAddress], ip *networkv1.VirtualMachineIPAddress) (*networkv1.VirtualMachineIPAddress, error) {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		created, err := client.Create(ctx, ip, resource.WriteOptions{})
		if !fault.Is(err, fault.Transient) || ctx.Err() != nil {
			return created, err
		}
		<-again.C
	}
}

func TestProcessSaysWhatIsMissing(t *testing.T) {
	args, _ := credentials(t, t.TempDir())
	err := run(t.Context(), append(args, "--mode=user"))
	if err == nil || !strings.Contains(err.Error(), "StateDir") {
		t.Errorf("got %v", err)
	}
}
