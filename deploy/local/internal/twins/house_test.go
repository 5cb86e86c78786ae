// Package twins_test disturbs what keeps custom resources and services' objects
// alike: on a real API server, with its garbage collector, the facade and the
// service are stopped, started and made to forget.
package twins_test

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"orlop.dev/deploy/local/internal/kubernetes"
	facade "orlop.dev/facade/kubernetes"
	"orlop.dev/gen/crd"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/auth"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
	"orlop.dev/kit/serve"
)

const (
	facadeUser = "system:orlop:facade"
	namespace  = "default"
	// deadline is for anything that a busy machine may take long over. Nothing
	// waits for it in a good run.
	deadline = 2 * time.Minute
)

// house is an API server, a service of two kinds that does nothing by itself,
// and the facade. Service and facade can be stopped and started.
type house struct {
	t        *testing.T    // lives as long as the house
	kube     client.Client // as an administrator
	byFacade client.Client // as the facade: admission doesn't ask about it
	config   *rest.Config
	etcd     *clientv3.Client
	ca       *serve.Authority
	logger   *slog.Logger
	address  string // of the service
	hook     string // of the facade
	conn     *grpc.ClientConn

	disks     *resource.Client[*diskv1.VirtualDisk]
	addresses *resource.Client[*networkv1.VirtualMachineIPAddress]
	// collection is the running service's, for statuses.
	collection *resource.Collection[*diskv1.VirtualDisk]
}

// refusedSize is a size that the service refuses once it is asked to store it.
const refusedSize = "666Mi"

func newHouse(t *testing.T) *house {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the local Kubernetes API: not in the fast run")
	}
	binary, err := filepath.Abs("../../../../bin/kube")
	check(t, err)
	if _, err := os.Stat(binary); err != nil {
		t.Skip("bin/kube is not built: make build builds it")
	}
	ctrllog.SetLogger(logr.Discard())
	h := &house{
		t:       t,
		logger:  slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
		address: freeAddress(t), hook: freeAddress(t),
	}
	etcd := etcdtest.Server(t, etcdtest.OnLoopback)
	endpoint := etcd.Clients[0].Addr().String()
	h.etcd, err = clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	check(t, err)
	t.Cleanup(func() { _ = h.etcd.Close() })
	server, err := kubernetes.Start(context.Background(), kubernetes.Options{
		Binary: binary, Dir: t.TempDir(), Address: netip.MustParseAddrPort("127.0.0.1:0"),
		Etcd:   kubernetes.Etcd{Endpoints: []string{"http://" + endpoint}},
		Users:  []kubernetes.User{{Name: facadeUser, Groups: []string{kubernetes.Masters}}},
		Logger: h.logger,
	})
	check(t, err)
	t.Cleanup(func() { server.Stop(context.Background()) })
	h.ca, err = serve.OpenAuthority(t.TempDir())
	check(t, err)
	h.connect(t, server)
	check(t, h.operator(t).Install(t.Context()))
	check(t, server.StartControllerManager())
	return h
}

func (h *house) connect(t *testing.T, server *kubernetes.Server) {
	t.Helper()
	admin, err := server.RESTConfig(kubernetes.Admin)
	check(t, err)
	h.kube, err = client.New(admin, client.Options{})
	check(t, err)
	h.config, err = server.RESTConfig(facadeUser)
	check(t, err)
	h.byFacade, err = client.New(h.config, client.Options{})
	check(t, err)
	pair, err := h.ca.Service("facade")
	check(t, err)
	certificate, err := pair.TLS()
	check(t, err)
	h.conn, err = serve.Dial(h.address, serve.ClientTLS(h.ca.Pool(), certificate))
	check(t, err)
	t.Cleanup(func() { _ = h.conn.Close() })
	h.disks, err = resource.NewClient[*diskv1.VirtualDisk](h.conn, kind.Must(&diskv1.VirtualDisk{}))
	check(t, err)
	h.addresses, err = resource.NewClient[*networkv1.VirtualMachineIPAddress](h.conn, kind.Must(&networkv1.VirtualMachineIPAddress{}))
	check(t, err)
}

// startFacade returns how to stop it again.
func (h *house) startFacade(t *testing.T) (stop func()) {
	t.Helper()
	return background(h.t, "facade", h.operator(t).Run)
}

func (h *house) operator(t *testing.T) *facade.Operator {
	t.Helper()
	operator, err := facade.New(facade.Options{
		REST: h.config, User: facadeUser,
		Connect: func(*kind.Kind) (grpc.ClientConnInterface, error) { return h.conn, nil },
		Listen:  h.hook, URL: "https://" + h.hook, WebhookSecret: "shared-by-all-processes",
		Certificate: h.certificate(t), CABundle: h.ca.CertificatePEM(), Logger: h.logger,
	})
	check(t, err)
	return operator
}

// startService serves what is below a prefix of etcd: another prefix is a store
// that was lost.
func (h *house) startService(t *testing.T, prefix string) (stop func()) {
	t.Helper()
	disks, diskMethods := newKind[*diskv1.VirtualDisk](t, h.etcd, prefix, &diskv1.VirtualDisk{}, refuseStoring)
	addresses, addressMethods := newKind[*networkv1.VirtualMachineIPAddress](t, h.etcd, prefix, &networkv1.VirtualMachineIPAddress{}, nil)
	h.collection = disks
	listener, err := net.Listen("tcp", h.address)
	check(t, err)
	part := serve.Part{
		Name: "stand-in",
		Register: func(r grpc.ServiceRegistrar) error {
			if err := resource.Register(r, &diskv1.VirtualDiskService_ServiceDesc, nil, diskMethods); err != nil {
				return err
			}
			return resource.Register(r, &networkv1.VirtualMachineIPAddressService_ServiceDesc, nil, addressMethods)
		},
		Run: func(ctx context.Context) error {
			group, ctx := errgroup.WithContext(ctx)
			group.Go(func() error { return disks.Run(ctx) })
			group.Go(func() error { return addresses.Run(ctx) })
			return group.Wait()
		},
	}
	stop = background(h.t, "service", func(ctx context.Context) error {
		return serve.Run(ctx, serve.Config{
			Options: serve.Defaults(), Name: "test", Guard: auth.NewGuard(nil, nil),
			TLS: serve.ServerTLS(h.certificate(t), h.ca.Pool()), Listener: listener, Logger: h.logger,
		}, part)
	})
	check(t, disks.WaitSynced(t.Context()))
	check(t, addresses.WaitSynced(t.Context()))
	return stop
}

func newKind[T resource.Object](t *testing.T, etcd *clientv3.Client, prefix string, message T, admit func(context.Context, T, T) error) (*resource.Collection[T], *resource.Methods[T]) {
	t.Helper()
	k := kind.Must(message)
	rules, err := schema.Find(crd.FS, k)
	check(t, err)
	collection, err := resource.NewCollection[T](etcd, prefix, k, resource.Options{Schema: rules})
	check(t, err)
	methods, err := resource.NewMethods(resource.MethodOptions[T]{Collection: collection, Schema: rules, Admit: admit})
	check(t, err)
	return collection, methods
}

// refuseStoring stands for a service that changed its mind after admission.
func refuseStoring(_ context.Context, _, disk *diskv1.VirtualDisk) error {
	if disk.GetSpec().GetPersistentVolumeClaim().GetSize() == refusedSize {
		return fault.New(fault.Exhausted, "NoSpace", "there is no room for %s", refusedSize)
	}
	return nil
}

func (h *house) certificate(t *testing.T) tls.Certificate {
	t.Helper()
	pair, err := h.ca.Server("127.0.0.1")
	check(t, err)
	certificate, err := pair.TLS()
	check(t, err)
	return certificate
}

// freeAddress is an address to listen on, again and again.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// background runs something until the test ends or stop is called, which waits
// for its end.
func background(t *testing.T, name string, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx)
		close(ended)
	}()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
