package publish

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orlop.dev/deploy/local/internal/relay"
)

// dialTimeout is how long one guest is waited for before the next is tried.
const dialTimeout = 5 * time.Second

// Reasons of events.
const (
	reasonNodePort     = "NodePortNotPublished"
	reasonLoadBalancer = "LoadBalancerNotPublished"
	reasonProtocol     = "ProtocolNotPublished"
	reasonIngress      = "IngressNotPublished"
	reasonCertificate  = "CertificateNotFound"
)

// balanced reports whether a Service is a load balancer of ours.
func balanced(service *corev1.Service) bool {
	class := service.Spec.LoadBalancerClass
	return service.Spec.Type == corev1.ServiceTypeLoadBalancer && (class == nil || *class == LoadBalancerClass)
}

// publishService opens a Service's doors.
func (p *Publisher) publishService(ctx context.Context, service *corev1.Service) error {
	kind := service.Spec.Type
	if kind != corev1.ServiceTypeNodePort && kind != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	if other := len(service.Spec.Ports) - len(tcpPorts(service)); other > 0 && p.options.NodePorts.IsValid() {
		p.warn(service, keyOf(service), reasonProtocol, fmt.Sprintf("%d of its ports are not TCP: guests reach them, this machine's users don't.", other))
	}
	p.publishNodePorts(service)
	if balanced(service) {
		return p.publishLoadBalancer(ctx, service)
	}
	return nil
}

func (p *Publisher) publishNodePorts(service *corev1.Service) {
	if !p.options.NodePorts.IsValid() {
		return
	}
	problem := ""
	for _, port := range tcpPorts(service) {
		if port.NodePort == 0 {
			continue
		}
		at := netip.AddrPortFrom(p.options.NodePorts, uint16(port.NodePort))
		if err := p.lead(at, servicePort{service: keyOf(service), port: port.Port}); err != nil {
			problem += cause(at, err) + " "
		}
	}
	if problem == "" {
		p.solved(keyOf(service), reasonNodePort)
		return
	}
	p.warn(service, keyOf(service), reasonNodePort,
		problem+"It is tried again every few seconds; another node port, or another address by orlop up --publish-address, helps.")
}

// lead opens a door to a port of a Service.
func (p *Publisher) lead(at netip.AddrPort, to servicePort) error {
	return p.doors.ensure(at, fmt.Sprintf("%s:%d", to.service, to.port), func(ctx context.Context, listener net.Listener) {
		way := &relay.Relay{Listener: listener, Dial: func(ctx context.Context) (net.Conn, error) { return p.dial(ctx, to) }}
		way.Run(ctx)
	})
}

// dial connects to one of the Ready guests behind a port.
func (p *Publisher) dial(ctx context.Context, to servicePort) (conn net.Conn, err error) {
	endpoints, err := p.backends.Load().endpoints(to)
	if err != nil {
		return nil, err
	}
	rand.Shuffle(len(endpoints), func(i, j int) { endpoints[i], endpoints[j] = endpoints[j], endpoints[i] })
	for _, endpoint := range endpoints {
		attempt, cancel := context.WithTimeout(ctx, dialTimeout)
		conn, err = p.options.Dial(attempt, "tcp", endpoint.String())
		cancel()
		if err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// publishLoadBalancer finds an address for a Service, opens its ports there, and
// tells it in the status.
func (p *Publisher) publishLoadBalancer(ctx context.Context, service *corev1.Service) error {
	at, problem := p.balance(service)
	status := corev1.LoadBalancerStatus{}
	if problem == "" {
		p.solved(keyOf(service), reasonLoadBalancer)
		p.pool.give(at, string(service.UID))
		mode := corev1.LoadBalancerIPModeProxy // the address is this machine's, and nothing of guests' network
		status.Ingress = []corev1.LoadBalancerIngress{{IP: at.String(), IPMode: &mode}}
	} else {
		p.warn(service, keyOf(service), reasonLoadBalancer, problem)
	}
	if equality.Semantic.DeepEqual(status, service.Status.LoadBalancer) {
		return nil
	}
	told := service.DeepCopy()
	told.Status.LoadBalancer = status
	_, err := p.options.Kubernetes.CoreV1().Services(service.Namespace).UpdateStatus(ctx, told, metav1.UpdateOptions{})
	return err
}

// balance opens a Service's ports at an address of the pool. The problem is for
// people.
func (p *Publisher) balance(service *corev1.Service) (at netip.Addr, problem string) {
	ports := tcpPorts(service)
	if len(ports) == 0 {
		return at, "It has no TCP port."
	}
	if !p.options.LoadBalancers.IsValid() {
		return at, "There are no addresses for load balancers: orlop up --load-balancer-cidr names some."
	}
	var wish netip.Addr
	// Deprecated, and still what a user knows for asking for an address.
	if text := service.Spec.LoadBalancerIP; text != "" {
		asked, err := netip.ParseAddr(text)
		if err != nil || !p.options.LoadBalancers.Contains(asked) {
			return at, fmt.Sprintf("spec.loadBalancerIP %s is not in %s, where load balancers have their addresses.", text, p.options.LoadBalancers)
		}
		wish = asked
	}
	problem = fmt.Sprintf("All addresses of %s are taken: orlop up --load-balancer-cidr names more.", p.options.LoadBalancers)
	for at := range p.pool.candidates(string(service.UID), wish) {
		taken := false
		if problem, taken = p.openAt(at, service); problem == "" || !taken {
			return at, problem
		}
	}
	return at, problem
}

// openAt opens all ports of a Service at an address. taken means that another
// address may be better.
func (p *Publisher) openAt(at netip.Addr, service *corev1.Service) (problem string, taken bool) {
	for _, port := range tcpPorts(service) {
		door := netip.AddrPortFrom(at, uint16(port.Port))
		if err := p.lead(door, servicePort{service: keyOf(service), port: port.Port}); err != nil {
			return cause(door, err), isTaken(err)
		}
	}
	return "", false
}
