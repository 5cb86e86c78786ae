package publish_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"

	"orlop.dev/deploy/local/internal/kubernetes"
	"orlop.dev/deploy/local/internal/publish"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/serve"
)

const (
	// deadline bounds what must happen; nothing waits for it in a good run.
	deadline = 2 * time.Minute
	space    = "default"
	hostname = "linux-vm.example.com"
)

// guestAddress is a guest's, which the way to guests leads to a server of the test.
var guestAddress = netip.MustParseAddr("10.66.10.5")

// machine is a Kubernetes API with a Publisher, and one guest.
type machine struct {
	*testing.T
	client clientset.Interface
	ports  netip.Addr // node ports are there
}

// TestPublishing tells one story, as a start costs seconds.
func TestPublishing(t *testing.T) {
	m := newMachine(t)
	m.service("web", corev1.ServiceTypeNodePort)
	m.slice("web", false)
	nodePort := m.nodePort("web")
	m.never(nodePort, "a guest that isn't Ready")
	m.slice("web", true)
	m.answers(nodePort, "")

	m.service("lb", corev1.ServiceTypeLoadBalancer)
	m.service("second", corev1.ServiceTypeLoadBalancer)
	m.slice("lb", true)
	first, second := m.externalIP("lb"), m.externalIP("second")
	if first == second {
		m.Fatalf("two load balancers have the address %s", first)
	}
	m.answers(net.JoinHostPort(first, "8080"), "")
	m.ingress("web")
	entrance := net.JoinHostPort(m.ingressIP(), "8081")
	m.answers(entrance, hostname)
	if got := m.status(entrance, "elsewhere.example.com"); got != http.StatusNotFound {
		m.Errorf("for a host that no Ingress names it is %d", got)
	}
	m.slice("web", false)
	m.until("503", func() bool { return m.status(entrance, hostname) == http.StatusServiceUnavailable })

	m.certificates()
	m.check(m.client.CoreV1().Services(space).Delete(m.Context(), "lb", metav1.DeleteOptions{}))
	m.until("the door is shut", func() bool { return m.closed(net.JoinHostPort(first, "8080")) })
	m.check(m.client.NetworkingV1().Ingresses(space).Delete(m.Context(), "web", metav1.DeleteOptions{}))
	m.until("the entrance is shut", func() bool { return m.closed(entrance) })
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the local Kubernetes API: not in the fast run")
	}
	binary, err := filepath.Abs("../../../../bin/kube")
	if _, missing := os.Stat(binary); err != nil || missing != nil {
		t.Skip("bin/kube is not built: make build builds it")
	}
	etcd := etcdtest.Server(t, etcdtest.OnLoopback)
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	server, err := kubernetes.Start(t.Context(), kubernetes.Options{
		Binary: binary, Dir: t.TempDir(), Address: netip.MustParseAddrPort("127.0.0.1:0"),
		Etcd: kubernetes.Etcd{Endpoints: []string{"http://" + etcd.Clients[0].Addr().String()}}, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop(context.Background()) })
	config, err := server.RESTConfig(kubernetes.Admin)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{T: t, client: clientset.NewForConfigOrDie(config), ports: netip.MustParseAddr("127.66.7.1")}
	m.publish(logger)
	return m
}

// publish runs the Publisher, with a guest that says its name.
func (m *machine) publish(logger *slog.Logger) {
	guest := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "guest of %s", r.Host) }))
	m.Cleanup(guest.Close)
	authority, err := serve.OpenAuthority(m.TempDir())
	m.check(err)
	pair, err := authority.Server("127.0.0.1")
	m.check(err)
	certificate, err := pair.TLS()
	m.check(err)
	publisher := publish.New(publish.Options{
		Kubernetes: m.client, NodePorts: m.ports, LoadBalancers: netip.MustParsePrefix("127.66.7.8/29"),
		HTTP: 8081, HTTPS: 8444, Certificate: certificate, Logger: logger,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if address != netip.AddrPortFrom(guestAddress, 80).String() {
				return nil, &net.AddrError{Err: "no such guest", Addr: address}
			}
			return new(net.Dialer).DialContext(ctx, network, guest.Listener.Addr().String())
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- publisher.Run(ctx) }()
	m.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			m.Error(err)
		}
	})
}

func (m *machine) check(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *machine) service(name string, kind corev1.ServiceType) {
	m.Helper()
	_, err := m.client.CoreV1().Services(space).Create(m.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: kind, Ports: []corev1.ServicePort{{Name: "http", Port: 8080}}},
	}, metav1.CreateOptions{})
	m.check(err)
}

// slice says who is behind a Service, as the controller does.
func (m *machine) slice(service string, ready bool) {
	m.Helper()
	port, name := int32(80), "http"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{guestAddress.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		}},
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
	}
	slices := m.client.DiscoveryV1().EndpointSlices(space)
	_, err := slices.Create(m.Context(), slice, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = slices.Update(m.Context(), slice, metav1.UpdateOptions{})
	}
	m.check(err)
}

func (m *machine) ingress(service string) {
	m.Helper()
	kind := networkingv1.PathTypePrefix
	_, err := m.client.NetworkingV1().Ingresses(space).Create(m.Context(), &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: networkingv1.IngressSpec{
			TLS: []networkingv1.IngressTLS{{Hosts: []string{hostname}, SecretName: "web"}},
			Rules: []networkingv1.IngressRule{{Host: hostname, IngressRuleValue: networkingv1.IngressRuleValue{
				HTTP: &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{
					Path: "/", PathType: &kind, Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
						Name: service, Port: networkingv1.ServiceBackendPort{Name: "http"},
					}},
				}}},
			}}},
		},
	}, metav1.CreateOptions{})
	m.check(err)
}

// certificates has a host show this machine's own certificate until its Secret
// is there.
func (m *machine) certificates() {
	m.Helper()
	at := net.JoinHostPort(m.ingressIP(), "8444")
	if got := m.shownBy(at); strings.Contains(got, hostname) {
		m.Errorf("without a Secret the certificate is %s", got)
	}
	authority, err := serve.OpenAuthority(m.TempDir())
	m.check(err)
	pair, err := authority.Server(hostname)
	m.check(err)
	_, err = m.client.CoreV1().Secrets(space).Create(m.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "web"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: pair.Certificate, corev1.TLSPrivateKeyKey: pair.Key},
	}, metav1.CreateOptions{})
	m.check(err)
	m.until("the Secret's certificate", func() bool { return strings.Contains(m.shownBy(at), hostname) })
}

// shownBy are the names in the certificate that a server shows for the host.
func (m *machine) shownBy(at string) string {
	m.Helper()
	//nolint:gosec // What is shown is looked at, whoever signed it.
	conn, err := tls.Dial("tcp", at, &tls.Config{ServerName: hostname, InsecureSkipVerify: true})
	m.check(err)
	defer conn.Close()
	return fmt.Sprint(conn.ConnectionState().PeerCertificates[0].DNSNames)
}

func (m *machine) nodePort(name string) string {
	m.Helper()
	service, err := m.client.CoreV1().Services(space).Get(m.Context(), name, metav1.GetOptions{})
	m.check(err)
	return netip.AddrPortFrom(m.ports, uint16(service.Spec.Ports[0].NodePort)).String()
}

func (m *machine) externalIP(name string) (at string) {
	m.Helper()
	m.until("an address for "+name, func() bool {
		service, err := m.client.CoreV1().Services(space).Get(m.Context(), name, metav1.GetOptions{})
		m.check(err)
		for _, entry := range service.Status.LoadBalancer.Ingress {
			at = entry.IP
		}
		return at != ""
	})
	return at
}

func (m *machine) ingressIP() (at string) {
	m.Helper()
	m.until("an address for the Ingress", func() bool {
		i, err := m.client.NetworkingV1().Ingresses(space).Get(m.Context(), "web", metav1.GetOptions{})
		m.check(err)
		for _, entry := range i.Status.LoadBalancer.Ingress {
			at = entry.IP
		}
		return at != ""
	})
	return at
}

// ask returns what is answered at an address; false if nothing is.
func (m *machine) ask(at, host string) (*http.Response, string, bool) {
	m.Helper()
	request, err := http.NewRequestWithContext(m.Context(), http.MethodGet, "http://"+at+"/", http.NoBody)
	m.check(err)
	if host != "" {
		request.Host = host
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, "", false
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response, string(body), err == nil
}

func (m *machine) status(at, host string) int {
	m.Helper()
	response, _, answered := m.ask(at, host)
	if !answered {
		return 0
	}
	return response.StatusCode
}

func (m *machine) answers(at, host string) {
	m.Helper()
	m.until("an answer at "+at, func() bool {
		_, body, _ := m.ask(at, host)
		return strings.HasPrefix(body, "guest of ")
	})
}

// never asks, once it is listened, and is answered nothing.
func (m *machine) never(at, why string) {
	m.Helper()
	m.until("a door at "+at, func() bool { return !m.closed(at) })
	if _, body, answered := m.ask(at, ""); answered {
		m.Errorf("%s answered %q", why, body)
	}
}

func (m *machine) closed(at string) bool {
	conn, err := net.Dial("tcp", at)
	if err == nil {
		_ = conn.Close()
	}
	return err != nil
}

func (m *machine) until(what string, holds func() bool) {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			m.Fatalf("there is not: %s", what)
		case <-tick.C:
		}
	}
}
