// Package ingress is a reverse proxy that goes by Ingress objects: which backend
// a request is for, which certificate a host has, and the way there.
//
// It must not know where Ingresses come from nor who stands behind a Service.
package ingress

import (
	"cmp"
	"crypto/tls"
	"net"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
)

// Backend is what a rule leads to.
type Backend struct {
	Namespace, Service string
	Port               networkingv1.ServiceBackendPort
}

// Table has the rules of all Ingresses. It is immutable.
type Table struct {
	hosts        map[string][]rule // by host, "*.example.com" and "" among them
	fallback     *Backend
	certificates map[string]*tls.Certificate
}

// rule is one path of one host.
type rule struct {
	path    string
	exact   bool
	backend Backend
}

// NewTable reads Ingresses. Where two of them want the same, the older one has
// it. certificates are by host, and may have "*.example.com".
//
// Paths of type ImplementationSpecific are read as prefixes. A backend that is a
// resource and no Service is left out.
func NewTable(ingresses []*networkingv1.Ingress, certificates map[string]*tls.Certificate) *Table {
	table := &Table{hosts: map[string][]rule{}, certificates: certificates}
	for _, ingress := range slices.SortedFunc(slices.Values(ingresses), older) {
		table.add(ingress)
	}
	for _, rules := range table.hosts {
		// The longest path is the most specific one; the sort is stable, so that the
		// older Ingress stays first.
		slices.SortStableFunc(rules, func(a, b rule) int {
			return cmp.Or(cmp.Compare(len(b.path), len(a.path)), exactFirst(a, b))
		})
	}
	return table
}

func exactFirst(a, b rule) int {
	switch {
	case a.exact == b.exact:
		return 0
	case a.exact:
		return -1
	}
	return 1
}

func older(a, b *networkingv1.Ingress) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func (t *Table) add(ingress *networkingv1.Ingress) {
	if backend := backendOf(ingress, ingress.Spec.DefaultBackend); backend != nil && t.fallback == nil {
		t.fallback = backend
	}
	for _, r := range ingress.Spec.Rules {
		if r.HTTP == nil {
			continue
		}
		host := strings.ToLower(r.Host)
		for _, path := range r.HTTP.Paths {
			backend := backendOf(ingress, &path.Backend)
			if backend == nil {
				continue
			}
			exact := path.PathType != nil && *path.PathType == networkingv1.PathTypeExact
			text := cmp.Or(path.Path, "/")
			if !exact {
				text = strings.TrimSuffix(text, "/") // "/foo/" also means "/foo"
			}
			t.hosts[host] = append(t.hosts[host], rule{path: text, exact: exact, backend: *backend})
		}
	}
}

func backendOf(ingress *networkingv1.Ingress, backend *networkingv1.IngressBackend) *Backend {
	if backend == nil || backend.Service == nil {
		return nil
	}
	return &Backend{Namespace: ingress.Namespace, Service: backend.Service.Name, Port: backend.Service.Port}
}

// Find returns the backend of a request: of the most specific host the most
// specific path, else the default backend. Nil if there is none.
func (t *Table) Find(host, path string) *Backend {
	for _, name := range names(host) {
		rules, found := t.hosts[name]
		if !found {
			continue
		}
		at := slices.IndexFunc(rules, func(r rule) bool { return r.matches(path) })
		if at < 0 {
			break
		}
		return &rules[at].backend
	}
	return t.fallback
}

func (r rule) matches(path string) bool {
	if r.exact {
		return path == r.path
	}
	rest, found := strings.CutPrefix(path, r.path)
	return found && (rest == "" || rest[0] == '/')
}

// Certificate returns what a host proves itself with; nil if nothing is said.
func (t *Table) Certificate(host string) *tls.Certificate {
	for _, name := range names(host) {
		if certificate := t.certificates[name]; certificate != nil {
			return certificate
		}
	}
	return nil
}

// names are those by which a host may be called in a rule, the most specific
// first.
func names(host string) []string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	_, domain, found := strings.Cut(host, ".")
	if !found {
		return []string{host, ""}
	}
	return []string{host, "*." + domain, ""}
}
