package main_test

import (
	"context"
	"crypto/x509"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"
)

const (
	// patience is for a busy machine: a good run waits for none of it.
	patience = 2 * time.Minute
	token    = "letmein"
)

type disks = *resource.Client[*diskv1.VirtualDisk]

// TestProcess is one life of the service's own process, while the image service
// is down.
func TestProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the service: not in the fast run")
	}
	dir, address := t.TempDir(), freeAddress(t)
	binary := build(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	arguments, roots := credentials(t, dir)
	process := exec.CommandContext(ctx, binary, append(arguments, "--address="+address,
		"--etcd="+strings.Join(etcdtest.Start(t).Endpoints(), ","), "--image-service="+freeAddress(t))...)
	process.Env = append(os.Environ(), "DISK_SERVICE_DIR="+filepath.Join(dir, "volumes"))
	log := new(strings.Builder)
	process.Stderr = log
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(log)
		}
	})

	makeDisk(ctx, t, dial(t, address, roots, grpc.WithPerRPCCredentials(serve.BearerToken(token))))
	if _, err := dial(t, address, roots).List(ctx, resource.ListOptions{}); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a stranger: %v", err)
	}
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := process.Wait(); err != nil {
		t.Errorf("the process was told to end and says: %v", err)
	}
	for _, want := range []string{"options", "dir=" + filepath.Join(dir, "volumes"), "msg=stopped"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q", want)
		}
	}
	if strings.Contains(log.String(), token) {
		t.Error("the log has the token")
	}
}

func TestProcessSaysWhatIsMissing(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the service: not in the fast run")
	}
	binary := build(t, t.TempDir())
	for _, test := range []struct {
		name, want string
		arguments  []string
	}{
		{"a peer", "--image-service is required", nil},
		{"who may come in", "--token-file", []string{"--image-service=127.0.0.1:1"}},
		{"an address", "host:port", []string{"--image-service=nowhere"}},
		{"an argument too many", "flags alone", []string{"please"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			output, err := exec.CommandContext(t.Context(), binary, test.arguments...).CombinedOutput()
			if err == nil || !strings.Contains(string(output), test.want) {
				t.Errorf("%v, and it says nothing of %q:\n%s", err, test.want, output)
			}
		})
	}
}

// makeDisk creates a disk, once the service has read its store, and waits until
// it is Ready.
func makeDisk(ctx context.Context, t *testing.T, client disks) {
	t.Helper()
	wanted := &diskv1.VirtualDisk{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: "blank"},
		Spec:     &diskv1.VirtualDiskSpec{PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: "1Mi"}},
	}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	_, err := client.Create(ctx, wanted, resource.WriteOptions{})
	for fault.Is(err, fault.Transient) && ctx.Err() == nil {
		<-again.C
		_, err = client.Create(ctx, wanted, resource.WriteOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	for event, err := range client.Watch(ctx, resource.WatchOptions{Namespace: "default"}) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Type != resource.Bookmark && event.Object.GetStatus().GetPhase().String() == "Ready" {
			return
		}
	}
	t.Fatal("the watch ended before the disk was Ready")
}

func build(t *testing.T, dir string) string {
	t.Helper()
	binary := filepath.Join(dir, "disk-service")
	if output, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, output)
	}
	return binary
}

// credentials writes what the process needs in order to be known and to know
// others.
func credentials(t *testing.T, dir string) (arguments []string, roots *x509.CertPool) {
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
	if err := os.WriteFile(tokens, []byte(token+",admin,1,system:masters\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--tls-certificate=" + certificate, "--tls-key=" + key, "--token-file=" + tokens}, authority.Pool()
}

func dial(t *testing.T, address string, roots *x509.CertPool, options ...grpc.DialOption) disks {
	t.Helper()
	options = append(options, grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	conn, err := serve.Dial(address, serve.ClientTLS(roots), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client, err := resource.NewClient[*diskv1.VirtualDisk](conn, kind.Must(&diskv1.VirtualDisk{}))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

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
