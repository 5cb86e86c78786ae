// Package publish lets users of this machine in to guests by Kubernetes' own
// means: node ports and load balancers of Services, and Ingresses. It listens on
// addresses that the machine has anyway, loopback ones unless told otherwise,
// and leads what comes to guests that are Ready. Nothing of the machine's
// network is changed.
//
// It owns these listeners, the addresses of load balancers, and the status of
// Services and Ingresses. It must not know how guests are connected: it is given
// a way to them. What guests see of Services is kube-proxy's.
package publish

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"orlop.dev/deploy/local/internal/publish/ingress"
)

const (
	// LoadBalancerClass may be named by a Service; one that names none is ours too.
	LoadBalancerClass = "orlop.dev/local"
	// IngressClass is the name of the class that is the cluster's default.
	IngressClass = "orlop"

	controllerName = "orlop.dev/ingress"
	component      = "orlop-publish"
	// again is how soon what failed is tried once more: a port that was taken may
	// be free.
	again = 10 * time.Second
)

// Options say where to listen and how to reach guests.
type Options struct {
	Kubernetes clientset.Interface
	// Dial connects to a guest's literal address and port.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// NodePorts is the address of this machine that node ports are at; the zero
	// Addr for none.
	NodePorts netip.Addr
	// LoadBalancers are addresses of this machine for Services of type LoadBalancer
	// and for Ingresses; the zero Prefix for none.
	LoadBalancers netip.Prefix
	// HTTP and HTTPS are the ports of Ingresses.
	HTTP, HTTPS uint16
	// Certificate is shown for hosts that no Ingress has a Secret for.
	Certificate tls.Certificate
	Logger      *slog.Logger
}

// Publisher is what the package is about. One runs at a time for a cluster.
type Publisher struct {
	options  Options
	watched  *watched
	events   record.EventRecorder
	told     map[string]string // last warning of each kind for each object
	backends atomic.Pointer[backends]
	doors    *doors
	pool     *pool
	proxy    *ingress.Proxy
}

// New returns a Publisher; Run does the work.
func New(options Options) *Publisher {
	p := &Publisher{
		options: options, watched: newWatched(options.Kubernetes), told: map[string]string{},
		doors: newDoors(), pool: newPool(options.LoadBalancers),
	}
	p.backends.Store(new(backends))
	p.proxy = ingress.NewProxy(ingress.Options{
		Endpoints: p.endpoints, Dial: options.Dial, Certificate: options.Certificate, Logger: options.Logger,
	})
	return p
}

// Run publishes until ctx ends. Then nothing listens any more, and what statuses
// say stays.
func (p *Publisher) Run(ctx context.Context) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: p.options.Kubernetes.CoreV1().Events("")})
	p.events = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
	defer p.doors.close()
	if err := p.watched.start(ctx); err != nil {
		return nil // ctx ended
	}
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		if err := p.sync(ctx); err != nil && ctx.Err() == nil {
			p.options.Logger.Warn("not all is published", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.watched.changed:
		case <-tick.C:
		}
	}
}

// sync makes listeners and statuses agree with what is there.
func (p *Publisher) sync(ctx context.Context) error {
	world, err := p.watched.look()
	if err != nil {
		return err
	}
	p.backends.Store(world.backends())
	p.doors.begin()
	defer p.doors.closeOthers()
	p.pool.retain(world)
	var failed []error
	for _, service := range world.services {
		failed = append(failed, p.publishService(ctx, service))
	}
	return errors.Join(append(failed, p.publishIngresses(ctx, world))...)
}

// ensureClass makes the IngressClass that Ingresses without a class are of.
func ensureClass(ctx context.Context, client clientset.Interface) error {
	_, err := client.NetworkingV1().IngressClasses().Create(ctx, &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{
			Name: IngressClass, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"},
		},
		Spec: networkingv1.IngressClassSpec{Controller: controllerName},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // what an administrator made of it stays
	}
	return err
}

// warn makes an event of a problem, once for as long as it is the same.
func (p *Publisher) warn(object runtime.Object, key, reason, message string) {
	key += " " + reason
	if p.told[key] == message {
		return
	}
	p.told[key] = message
	p.events.Event(object, corev1.EventTypeWarning, reason, message)
}

// solved forgets a problem.
func (p *Publisher) solved(key, reason string) { delete(p.told, key+" "+reason) }

// cause says why an address can't be listened on, and what to do.
func cause(at netip.AddrPort, err error) string {
	switch {
	case isTaken(err):
		return fmt.Sprintf("Somebody else on this machine listens on %s.", at)
	case isForbidden(err):
		return fmt.Sprintf("Port %d may only be opened by root.", at.Port())
	case isForeign(err):
		return fmt.Sprintf("This machine has no address %s.", at.Addr())
	}
	return fmt.Sprintf("%s can't be opened: %v.", at, err)
}
