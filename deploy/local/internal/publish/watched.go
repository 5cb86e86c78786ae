package publish

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"orlop.dev/deploy/local/internal/publish/ingress"
)

// watched are copies of the objects that matter.
type watched struct {
	client  clientset.Interface
	objects informers.SharedInformerFactory
	secrets informers.SharedInformerFactory // with certificates, and no others
	changed chan struct{}
}

func newWatched(client clientset.Interface) *watched {
	return &watched{
		client:  client,
		objects: informers.NewSharedInformerFactory(client, 0),
		secrets: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeTLS)).String()
		})),
		changed: make(chan struct{}, 1),
	}
}

// start returns when the copies are complete. They are kept until ctx ends.
func (w *watched) start(ctx context.Context) error {
	if err := ensureClass(ctx, w.client); err != nil {
		return fmt.Errorf("class of Ingresses: %w", err)
	}
	for _, informer := range []cache.SharedIndexInformer{
		w.objects.Core().V1().Services().Informer(),
		w.objects.Discovery().V1().EndpointSlices().Informer(),
		w.objects.Networking().V1().Ingresses().Informer(),
		w.objects.Networking().V1().IngressClasses().Informer(),
		w.secrets.Core().V1().Secrets().Informer(),
	} {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { w.note() },
			UpdateFunc: func(any, any) { w.note() },
			DeleteFunc: func(any) { w.note() },
		})
		if err != nil {
			return err
		}
	}
	for _, factory := range []informers.SharedInformerFactory{w.objects, w.secrets} {
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
	}
	return ctx.Err()
}

func (w *watched) note() {
	select {
	case w.changed <- struct{}{}:
	default: // a look is due already
	}
}

// world is what there is at one time. Its objects must not be changed.
type world struct {
	services  []*corev1.Service // the oldest first
	slices    []*discoveryv1.EndpointSlice
	ingresses []*networkingv1.Ingress // ours
	secrets   map[string]*corev1.Secret
}

func (w *watched) look() (*world, error) {
	services, err := w.objects.Core().V1().Services().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		if order := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); order != 0 {
			return order
		}
		return compareKeys(a, b)
	})
	endpoints, err := w.objects.Discovery().V1().EndpointSlices().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	secrets, err := w.secrets.Core().V1().Secrets().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	ingresses, err := w.ownIngresses()
	if err != nil {
		return nil, err
	}
	found := &world{services: services, slices: endpoints, ingresses: ingresses, secrets: map[string]*corev1.Secret{}}
	for _, secret := range secrets {
		found.secrets[keyOf(secret)] = secret
	}
	return found, nil
}

// ownIngresses are those of a class that names this controller.
func (w *watched) ownIngresses() ([]*networkingv1.Ingress, error) {
	classes, err := w.objects.Networking().V1().IngressClasses().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	own := map[string]bool{}
	for _, class := range classes {
		own[class.Name] = class.Spec.Controller == controllerName
	}
	ingresses, err := w.objects.Networking().V1().Ingresses().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	ingresses = slices.DeleteFunc(ingresses, func(i *networkingv1.Ingress) bool {
		name := i.Annotations["kubernetes.io/ingress.class"] // the older way
		if i.Spec.IngressClassName != nil {
			name = *i.Spec.IngressClassName
		}
		return !own[name]
	})
	slices.SortFunc(ingresses, func(a, b *networkingv1.Ingress) int { return compareKeys(a, b) })
	return ingresses, nil
}

func keyOf(object metav1.Object) string { return object.GetNamespace() + "/" + object.GetName() }

func compareKeys(a, b metav1.Object) int {
	switch {
	case keyOf(a) < keyOf(b):
		return -1
	case keyOf(a) > keyOf(b):
		return 1
	}
	return 0
}

// servicePort names a port of a Service.
type servicePort struct {
	service string // namespace/name
	port    int32
}

// backends are the Ready guests behind each port of each Service that has TCP
// ports. They are immutable.
type backends struct {
	services map[string]*corev1.Service
	ready    map[servicePort][]netip.AddrPort
}

func (w *world) backends() *backends {
	b := &backends{services: map[string]*corev1.Service{}, ready: map[servicePort][]netip.AddrPort{}}
	for _, service := range w.services {
		b.services[keyOf(service)] = service
	}
	for _, slice := range w.slices {
		name := slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]
		service, found := b.services[name]
		if !found || slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, port := range tcpPorts(service) {
			key := servicePort{service: name, port: port.Port}
			b.ready[key] = append(b.ready[key], readyIn(slice, port.Name)...)
		}
	}
	return b
}

// readyIn are the endpoints of a slice that may get traffic, at the port of a
// name.
func readyIn(slice *discoveryv1.EndpointSlice, name string) []netip.AddrPort {
	at := slices.IndexFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool {
		return p.Name != nil && *p.Name == name && p.Port != nil && (p.Protocol == nil || *p.Protocol == corev1.ProtocolTCP)
	})
	if at < 0 {
		return nil
	}
	var found []netip.AddrPort
	for _, endpoint := range slice.Endpoints {
		if ready := endpoint.Conditions.Ready; ready != nil && !*ready {
			continue
		}
		for _, text := range endpoint.Addresses {
			if address, err := netip.ParseAddr(text); err == nil {
				found = append(found, netip.AddrPortFrom(address, uint16(*slice.Ports[at].Port)))
			}
		}
	}
	return found
}

func tcpPorts(service *corev1.Service) []corev1.ServicePort {
	return slices.DeleteFunc(slices.Clone(service.Spec.Ports), func(p corev1.ServicePort) bool {
		return p.Protocol != corev1.ProtocolTCP && p.Protocol != ""
	})
}

// noBackendError says why nobody stands behind a name.
type noBackendError struct{ reason string }

func (e *noBackendError) Error() string { return e.reason }

// endpoints are the Ready guests behind an Ingress' backend, in a list of the
// caller's own.
func (p *Publisher) endpoints(backend ingress.Backend) ([]netip.AddrPort, error) {
	b := p.backends.Load()
	name := backend.Namespace + "/" + backend.Service
	service, found := b.services[name]
	if !found {
		return nil, &noBackendError{fmt.Sprintf("Service %s is not there.", name)}
	}
	ports := tcpPorts(service)
	at := slices.IndexFunc(ports, func(port corev1.ServicePort) bool {
		if backend.Port.Name != "" {
			return port.Name == backend.Port.Name
		}
		return port.Port == backend.Port.Number
	})
	if at < 0 {
		return nil, &noBackendError{fmt.Sprintf("Service %s has no TCP port %s.", name, portName(backend.Port))}
	}
	return b.endpoints(servicePort{service: name, port: ports[at].Port})
}

func portName(port networkingv1.ServiceBackendPort) string {
	if port.Name != "" {
		return port.Name
	}
	return fmt.Sprint(port.Number)
}

func (b *backends) endpoints(port servicePort) ([]netip.AddrPort, error) {
	if ready := b.ready[port]; len(ready) > 0 {
		return slices.Clone(ready), nil
	}
	return nil, &noBackendError{fmt.Sprintf("No VM behind Service %s is Ready.", port.service)}
}
