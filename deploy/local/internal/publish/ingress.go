package publish

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orlop.dev/deploy/local/internal/publish/ingress"
)

// publishIngresses opens the one entrance of all Ingresses while there are any,
// and tells its address in each.
func (p *Publisher) publishIngresses(ctx context.Context, world *world) error {
	p.proxy.Use(ingress.NewTable(world.ingresses, p.certificates(world)))
	if len(world.ingresses) == 0 {
		return nil
	}
	at, problem := p.openEntrance()
	status := networkingv1.IngressLoadBalancerStatus{}
	if problem == "" {
		p.pool.give(at, forIngresses)
		status.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: at.String()}}
	}
	var failed []error
	for _, own := range world.ingresses {
		if problem != "" {
			p.warn(own, keyOf(own), reasonIngress, problem)
		} else {
			p.solved(keyOf(own), reasonIngress)
		}
		failed = append(failed, p.tell(ctx, own, status))
	}
	return errors.Join(failed...)
}

func (p *Publisher) tell(ctx context.Context, own *networkingv1.Ingress, status networkingv1.IngressLoadBalancerStatus) error {
	if equality.Semantic.DeepEqual(status, own.Status.LoadBalancer) {
		return nil
	}
	told := own.DeepCopy()
	told.Status.LoadBalancer = status
	_, err := p.options.Kubernetes.NetworkingV1().Ingresses(own.Namespace).UpdateStatus(ctx, told, metav1.UpdateOptions{})
	return err
}

// openEntrance listens for HTTP and HTTPS at an address of the pool.
func (p *Publisher) openEntrance() (at netip.Addr, problem string) {
	if !p.options.LoadBalancers.IsValid() {
		return at, "There is no address for Ingresses: orlop up --load-balancer-cidr names some."
	}
	problem = fmt.Sprintf("All addresses of %s are taken: orlop up --load-balancer-cidr names more.", p.options.LoadBalancers)
	for at := range p.pool.candidates(forIngresses, netip.Addr{}) {
		http, https := netip.AddrPortFrom(at, p.options.HTTP), netip.AddrPortFrom(at, p.options.HTTPS)
		door := http
		err := p.doors.ensure(http, "Ingresses", p.proxy.Serve)
		if err == nil {
			door = https
			err = p.doors.ensure(https, "Ingresses", p.proxy.ServeTLS)
		}
		if err == nil {
			return at, ""
		}
		problem = cause(door, err)
		if isForbidden(err) {
			problem += " orlop up --ingress-http-port and --ingress-https-port name others."
		}
		if !isTaken(err) {
			break
		}
	}
	return at, problem
}

// certificates are those of the Secrets that Ingresses name, by host.
func (p *Publisher) certificates(world *world) map[string]*tls.Certificate {
	found := map[string]*tls.Certificate{}
	for _, own := range world.ingresses {
		problem := ""
		for _, entry := range own.Spec.TLS {
			if entry.SecretName == "" {
				continue // the host has this machine's own certificate
			}
			certificate, err := certificateOf(world.secrets[own.Namespace+"/"+entry.SecretName])
			if err != nil {
				problem += fmt.Sprintf("Secret %s: %v. ", entry.SecretName, err)
				continue
			}
			for _, host := range entry.Hosts {
				host = strings.ToLower(host)
				if found[host] == nil {
					found[host] = certificate
				}
			}
		}
		if problem == "" {
			p.solved(keyOf(own), reasonCertificate)
		} else {
			p.warn(own, keyOf(own), reasonCertificate, problem+"Until then its hosts show this machine's own certificate.")
		}
	}
	return found
}

var errNoSecret = errors.New("there is none of type " + string(corev1.SecretTypeTLS))

func certificateOf(secret *corev1.Secret) (*tls.Certificate, error) {
	if secret == nil {
		return nil, errNoSecret
	}
	certificate, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	return &certificate, err
}
