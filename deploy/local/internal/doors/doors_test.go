// Package doors_test holds the doors to one kind against each other: kubectl through
// the facade, and gRPC, on a real API server.
package doors_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubemeta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"orlop.dev/deploy/local/internal/kubernetes"
	facade "orlop.dev/facade/kubernetes"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/auth"
	authkubernetes "orlop.dev/kit/auth/kubernetes"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"

	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

const (
	facadeUser = "system:orlop:facade"
	namespace  = "default"
	// deadline is for anything that a busy machine may take long over. Nothing
	// waits for it in a good run.
	deadline = 2 * time.Minute
)

var diskGVK = schema.GroupVersionKind{Group: "virtualization.deckhouse.io", Version: "v1alpha2", Kind: "VirtualDisk"}

// house is a Kubernetes API server, services and the facade: two doors to their
// kinds.
type house struct {
	*cluster
	disks *resource.Client[*diskv1.VirtualDisk]
	nodes vmv1.NodeServiceClient
	// address and roots lead users to the gRPC door.
	address string
	roots   *x509.CertPool
}

// TestDoors tells one story, since a start costs seconds: what is made, changed
// and deleted through one door is so at the other.
func TestDoors(t *testing.T) {
	h := newHouse(t)
	t.Run("kubectl creates, the service makes", h.testCreate)
	t.Run("gRPC creates, kubectl sees and deletes", h.testMirror)
	t.Run("kubectl changes, the service follows", h.testPush)
	t.Run("gRPC changes, kubectl follows", h.testPull)
	t.Run("both change, the custom resource wins and an event says so", h.testConflict)
	t.Run("gRPC deletes, kubectl follows", h.testDeleteElsewhere)
	t.Run("a saved manifest can be applied again", h.testSavedManifest)
	t.Run("what the service would refuse is refused at admission", h.testAdmission)
	t.Run("both doors refuse in the same words", h.testSameWords)
	t.Run("kubectl applies, compares and tries", h.testApply)
	t.Run("what the disk service refuses names the field", h.testRefused)
	t.Run("what the network service refuses names the field", h.testAddresses)
	t.Run("and of MAC addresses, too", h.testMACs)
	t.Run("what the vm service refuses names the field", h.testMachines)
	t.Run("nodes are the administrator's to label, taint, cordon and drain", h.testNodes)
	t.Run("rights count at both doors", h.testRights)
	t.Run("nobody gets anything but health", h.testNobody)
	t.Run("a namespace ends", h.testNamespace)
}

func newHouse(t *testing.T) *house {
	t.Helper()
	c := newCluster(t)
	ctx, cancel := context.WithCancel(context.Background())
	authority, err := serve.OpenAuthority(t.TempDir())
	check(t, err)
	listener := listen(t)
	address := listener.Addr().String()
	conn := dial(t, authority, address)
	admin, err := c.server.RESTConfig(kubernetes.Admin)
	check(t, err)
	reviewer := authkubernetes.New(clientset.NewForConfigOrDie(admin), clock.RealClock{})
	background(t, cancel, "serve", func() error {
		return serve.Run(ctx, serve.Config{
			Options: serve.Defaults(), Name: "test", Guard: auth.NewGuard(reviewer, reviewer),
			TLS: serverTLS(t, authority), Listener: listener, Logger: c.logger,
		}, newParts(t, c, conn)...)
	})

	operator := newOperator(t, c.server, authority, conn, c.logger)
	check(t, operator.Install(ctx))
	check(t, c.server.StartControllerManager())
	background(t, cancel, "facade", func() error { return operator.Run(ctx) })

	remote, err := resource.NewClient[*diskv1.VirtualDisk](conn, kind.Must(&diskv1.VirtualDisk{}))
	check(t, err)
	return &house{cluster: c, disks: remote, nodes: vmv1.NewNodeServiceClient(conn), address: address, roots: authority.Pool()}
}

func newOperator(t *testing.T, server *kubernetes.Server, authority *serve.Authority, conn *grpc.ClientConn, logger *slog.Logger) *facade.Operator {
	t.Helper()
	config, err := server.RESTConfig(facadeUser)
	check(t, err)
	hook := listen(t)
	address := hook.Addr().String()
	check(t, hook.Close())
	operator, err := facade.New(facade.Options{
		REST: config, User: facadeUser,
		Connect: func(*kind.Kind) (grpc.ClientConnInterface, error) { return conn, nil },
		Listen:  address, URL: "https://" + address,
		Certificate: serverCertificate(t, authority), CABundle: authority.CertificatePEM(), Publish: true, Logger: logger,
	})
	check(t, err)
	return operator
}

func (h *house) testCreate(t *testing.T) {
	check(t, h.kube.Create(t.Context(), newCR("blank", "100Mi")))
	h.eventually(t, "blank", "is Ready with its capacity", func(cr *unstructured.Unstructured) bool {
		return text(cr, "status", "phase") == "Ready" && text(cr, "status", "capacity") == "100Mi"
	})
	remote, err := h.disks.Get(t.Context(), key("blank"))
	check(t, err)
	if remote.GetSpec().GetPersistentVolumeClaim().GetSize() != "100Mi" {
		t.Errorf("the service has %v", remote.GetSpec())
	}
}

func (h *house) testMirror(t *testing.T) {
	_, err := h.disks.Create(t.Context(), newDisk("by-grpc", "1Gi"), resource.WriteOptions{})
	check(t, err)
	cr := h.eventually(t, "by-grpc", "is shown Ready", func(cr *unstructured.Unstructured) bool {
		return text(cr, "status", "phase") == "Ready"
	})
	check(t, h.kube.Delete(t.Context(), cr))
	h.eventuallyGone(t, "by-grpc")
	if _, err := h.disks.Get(t.Context(), key("by-grpc")); !fault.Is(err, fault.NotFound) {
		t.Errorf("the service still has it: %v", err)
	}
}

func (h *house) testPush(t *testing.T) {
	h.resizeCR(t, "blank", "200Mi")
	cr := h.eventually(t, "blank", "grew", func(cr *unstructured.Unstructured) bool {
		return text(cr, "status", "capacity") == "200Mi"
	})
	h.eventually(t, "blank", "says of which generation its status speaks", func(cr *unstructured.Unstructured) bool {
		observed, _, _ := unstructured.NestedInt64(cr.Object, "status", "observedGeneration")
		return observed == cr.GetGeneration()
	})
	if cr.GetGeneration() != 2 {
		t.Errorf("the generation is %d after one change: somebody else changed the spec", cr.GetGeneration())
	}
}

func (h *house) testPull(t *testing.T) {
	remote, err := h.disks.Get(t.Context(), key("blank"))
	check(t, err)
	remote.Spec.PersistentVolumeClaim.Size = "300Mi"
	_, err = h.disks.Update(t.Context(), remote, resource.UpdateOptions{})
	check(t, err)
	h.eventually(t, "blank", "shows the service's size", func(cr *unstructured.Unstructured) bool {
		return text(cr, "spec", "persistentVolumeClaim", "size") == "300Mi"
	})
}

// testConflict makes both sides differ at the same time by writing, with the
// facade's own hand, a memory that neither side has.
func (h *house) testConflict(t *testing.T) {
	cr := h.get(t, "blank")
	annotations := cr.GetAnnotations()
	parts := strings.Split(annotations["orlop.dev/synced"], "/")
	annotations["orlop.dev/synced"] = "0123456789abcdef/" + parts[1] + "/" + parts[2]
	cr.SetAnnotations(annotations)
	check(t, unstructured.SetNestedField(cr.Object, "400Mi", "spec", "persistentVolumeClaim", "size"))
	check(t, h.kube.Update(t.Context(), cr))
	h.eventually(t, "blank", "won", func(cr *unstructured.Unstructured) bool { return text(cr, "status", "capacity") == "400Mi" })
	poll(t, "an event tells of the conflict", func() bool {
		events := new(corev1.EventList)
		check(t, h.kube.List(t.Context(), events, client.InNamespace(namespace)))
		for _, event := range events.Items {
			if event.Reason == "ChangedOnBothSides" && event.InvolvedObject.Name == "blank" {
				return true
			}
		}
		return false
	})
}

func (h *house) testDeleteElsewhere(t *testing.T) {
	_, err := h.disks.Delete(t.Context(), key("blank"), resource.DeleteOptions{})
	check(t, err)
	h.eventuallyGone(t, "blank")
}

func (h *house) testSavedManifest(t *testing.T) {
	check(t, h.kube.Create(t.Context(), newCR("saved", "1Mi")))
	saved := h.eventually(t, "saved", "is Ready", func(cr *unstructured.Unstructured) bool {
		return text(cr, "status", "phase") == "Ready" && cr.GetAnnotations()["orlop.dev/synced"] != ""
	})
	check(t, h.kube.Delete(t.Context(), saved))
	h.eventuallyGone(t, "saved")
	saved.SetResourceVersion("")
	saved.SetUID("")
	check(t, h.kube.Create(t.Context(), saved))
	again := h.eventually(t, "saved", "is Ready again", func(cr *unstructured.Unstructured) bool {
		return text(cr, "status", "phase") == "Ready" && cr.GetDeletionTimestamp() == nil
	})
	check(t, h.kube.Delete(t.Context(), again))
}

func (h *house) testAdmission(t *testing.T) {
	check(t, h.kube.Create(t.Context(), newCR("firm", "10Mi")))
	h.eventually(t, "firm", "is Ready", func(cr *unstructured.Unstructured) bool { return text(cr, "status", "phase") == "Ready" })
	cr := h.get(t, "firm")
	check(t, unstructured.SetNestedField(cr.Object, "5Mi", "spec", "persistentVolumeClaim", "size"))
	err := h.kube.Update(t.Context(), cr)
	if err == nil || !strings.Contains(err.Error(), "can't be made smaller") {
		t.Errorf("a disk may shrink: %v", err)
	}
	if err := h.kube.Create(t.Context(), newCR("a.b", "5Mi")); err == nil || !strings.Contains(err.Error(), "metadata.name") {
		t.Errorf("a name with a dot: %v", err)
	}
	dry := newCR("dry", "5Mi")
	check(t, h.kube.Create(t.Context(), dry, client.DryRunAll))
	if err := h.kube.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "dry"}, newCR("dry", "")); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run left something: %v", err)
	}
}

func (h *house) testSameWords(t *testing.T) {
	for name, spoil := range map[string]func(*diskv1.VirtualDisk){
		"no size":      func(d *diskv1.VirtualDisk) { d.Spec.PersistentVolumeClaim = nil },
		"bad quantity": func(d *diskv1.VirtualDisk) { d.Spec.PersistentVolumeClaim.Size = "ten" },
	} {
		remote := newDisk("words", "1Mi")
		spoil(remote)
		cr := newCR("words", remote.GetSpec().GetPersistentVolumeClaim().GetSize())
		if remote.Spec.PersistentVolumeClaim == nil {
			cr.Object["spec"] = map[string]any{}
		}
		kubeErr := h.kube.Create(t.Context(), cr)
		_, grpcErr := h.disks.Create(t.Context(), remote, resource.WriteOptions{})
		if kubeErr == nil || grpcErr == nil {
			t.Errorf("%s: kubectl says %v, gRPC says %v", name, kubeErr, grpcErr)
			continue
		}
		for _, field := range fault.From(grpcErr).Fields {
			if !strings.Contains(kubeErr.Error(), field.Message) {
				t.Errorf("%s: gRPC says %q, which is not in kubectl's %q", name, field.Message, kubeErr)
			}
		}
	}
}

func (h *house) testNamespace(t *testing.T) {
	const name = "to-end"
	check(t, h.kube.Create(t.Context(), &corev1.Namespace{ObjectMeta: kubemeta.ObjectMeta{Name: name}}))
	cr := newCR("inside", "1Mi")
	cr.SetNamespace(name)
	check(t, h.kube.Create(t.Context(), cr))
	poll(t, "the disk is with the service", func() bool {
		_, err := h.disks.Get(t.Context(), resource.Key{Namespace: name, Name: "inside"})
		return err == nil
	})
	check(t, h.kube.Delete(t.Context(), &corev1.Namespace{ObjectMeta: kubemeta.ObjectMeta{Name: name}}))
	poll(t, "the namespace is gone", func() bool {
		return apierrors.IsNotFound(h.kube.Get(t.Context(), client.ObjectKey{Name: name}, new(corev1.Namespace)))
	})
	if _, err := h.disks.Get(t.Context(), resource.Key{Namespace: name, Name: "inside"}); !fault.Is(err, fault.NotFound) {
		t.Errorf("the service still has what was in the namespace: %v", err)
	}
}

func (h *house) get(t *testing.T, name string) *unstructured.Unstructured {
	t.Helper()
	cr := newCR(name, "")
	check(t, h.kube.Get(t.Context(), client.ObjectKeyFromObject(cr), cr))
	return cr
}

func (h *house) resizeCR(t *testing.T, name, size string) {
	t.Helper()
	patch := []byte(`{"spec":{"persistentVolumeClaim":{"size":"` + size + `"}}}`)
	check(t, h.kube.Patch(t.Context(), newCR(name, ""), client.RawPatch("application/merge-patch+json", patch)))
}

func (h *house) eventually(t *testing.T, name, what string, holds func(*unstructured.Unstructured) bool) *unstructured.Unstructured {
	t.Helper()
	var last *unstructured.Unstructured
	poll(t, name+" "+what, func() bool {
		cr := newCR(name, "")
		if err := h.kube.Get(t.Context(), client.ObjectKeyFromObject(cr), cr); err != nil {
			return false
		}
		last = cr
		return holds(cr)
	})
	return last
}

func (h *house) eventuallyGone(t *testing.T, name string) {
	t.Helper()
	poll(t, name+" is gone", func() bool {
		cr := newCR(name, "")
		return apierrors.IsNotFound(h.kube.Get(t.Context(), client.ObjectKeyFromObject(cr), cr))
	})
}

// poll looks until something holds. The state of the world is what counts; the
// deadline is no measure.
func poll(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	give := time.After(deadline)
	for !holds() {
		select {
		case <-tick.C:
		case <-give:
			t.Fatalf("never: %s", what)
		}
	}
}

func newCR(name, size string) *unstructured.Unstructured {
	cr := new(unstructured.Unstructured)
	cr.SetGroupVersionKind(diskGVK)
	cr.SetNamespace(namespace)
	cr.SetName(name)
	if size != "" {
		cr.Object["spec"] = map[string]any{"persistentVolumeClaim": map[string]any{"size": size}}
	}
	return cr
}

func newDisk(name, size string) *diskv1.VirtualDisk {
	return &diskv1.VirtualDisk{
		Metadata: &metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:     &diskv1.VirtualDiskSpec{PersistentVolumeClaim: &diskv1.DiskPersistentVolumeClaim{Size: size}},
	}
}

func key(name string) resource.Key { return resource.Key{Namespace: namespace, Name: name} }

func text(cr *unstructured.Unstructured, path ...string) string {
	value, _, _ := unstructured.NestedString(cr.Object, path...)
	return value
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	return listener
}

func newEtcdClient(t *testing.T, server *embed.Etcd) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Clients[0].Addr().String()}, Logger: zap.NewNop()})
	check(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func serverCertificate(t *testing.T, authority *serve.Authority) tls.Certificate {
	t.Helper()
	pair, err := authority.Server("127.0.0.1")
	check(t, err)
	certificate, err := pair.TLS()
	check(t, err)
	return certificate
}

func serverTLS(t *testing.T, authority *serve.Authority) *tls.Config {
	t.Helper()
	return serve.ServerTLS(serverCertificate(t, authority), authority.Pool())
}

func dial(t *testing.T, authority *serve.Authority, address string) *grpc.ClientConn {
	t.Helper()
	pair, err := authority.Service("facade")
	check(t, err)
	certificate, err := pair.TLS()
	check(t, err)
	conn, err := serve.Dial(address, serve.ClientTLS(authority.Pool(), certificate))
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// background runs something until the test ends.
func background(t *testing.T, cancel context.CancelFunc, name string, run func() error) {
	ended := make(chan error, 1)
	go func() { ended <- run() }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
}
