package ingress_test

import (
	"crypto/tls"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"orlop.dev/deploy/local/internal/publish/ingress"
)

// path is one path of a host, and the name of the Service that it leads to.
type path struct {
	host, path string
	kind       networkingv1.PathType
	service    string
}

func backend(service string) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
		Name: service, Port: networkingv1.ServiceBackendPort{Number: 80},
	}}
}

// object is an Ingress of that name; those of a later hour are younger.
func object(name string, hour int, paths ...path) *networkingv1.Ingress {
	i := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: name, CreationTimestamp: metav1.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC),
	}}
	for _, p := range paths {
		i.Spec.Rules = append(i.Spec.Rules, networkingv1.IngressRule{
			Host: p.host,
			IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
				Paths: []networkingv1.HTTPIngressPath{{Path: p.path, PathType: &p.kind, Backend: backend(p.service)}},
			}},
		})
	}
	return i
}

func TestRequestsFindTheMostSpecificRule(t *testing.T) {
	const exact, prefix, own = networkingv1.PathTypeExact, networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific
	table := ingress.NewTable([]*networkingv1.Ingress{
		object("young", 2, path{"a.example.com", "/", prefix, "too-late"}, path{"", "/", prefix, "any"}),
		object("old", 1,
			path{"a.example.com", "/", prefix, "root"}, path{"a.example.com", "/foo/", prefix, "foo"},
			path{"a.example.com", "/foo/bar", prefix, "bar"}, path{"a.example.com", "/foo/bar", exact, "exact"},
			path{"*.example.com", "/", own, "wildcard"}, path{"b.example.com", "/only", exact, "only"},
		),
	}, nil)
	for request, want := range map[[2]string]string{
		{"a.example.com", "/"}:                "root",
		{"a.example.com", "/food"}:            "root",
		{"a.example.com", "/foo"}:             "foo",
		{"a.example.com", "/foo/"}:            "foo",
		{"a.example.com", "/foo/bar"}:         "exact",
		{"a.example.com", "/foo/bar/"}:        "bar",
		{"a.example.com", "/foo/barn"}:        "foo",
		{"A.Example.com.", "/"}:               "root",
		{"a.example.com:8080", "/"}:           "root",
		{"c.example.com", "/x"}:               "wildcard",
		{"example.com", "/x"}:                 "any",
		{"c.d.example.com", "/x"}:             "any",
		{"b.example.com", "/only"}:            "only",
		{"b.example.com", "/only/"}:           "", // the host is named, and nothing for this path
		{"[fd00::1]:80", "/"}:                 "any",
		{"127.66.0.1", "/.well-known/thing"}:  "any",
		{"localhost", "/"}:                    "any",
		{"xn--bcher-kva.example.com", "/b/c"}: "wildcard",
	} {
		got := ""
		if found := table.Find(request[0], request[1]); found != nil {
			got = found.Service
		}
		if got != want {
			t.Errorf("%v leads to %q, want %q", request, got, want)
		}
	}
}

func TestWhatNoRuleIsForGoesToTheDefaultBackend(t *testing.T) {
	first, second := object("a", 1), object("b", 2, path{"a.example.com", "/a", networkingv1.PathTypePrefix, "a"})
	for service, i := range map[string]*networkingv1.Ingress{"first": first, "second": second} {
		b := backend(service)
		i.Spec.DefaultBackend = &b
	}
	table := ingress.NewTable([]*networkingv1.Ingress{second, first}, nil)
	for host, p := range map[string]string{"a.example.com": "/b", "elsewhere": "/"} {
		if found := table.Find(host, p); found == nil || found.Service != "first" {
			t.Errorf("%s%s leads to %v", host, p, found)
		}
	}
	if found := new(ingress.Table).Find("a", "/"); found != nil {
		t.Errorf("with no Ingress it leads to %v", found)
	}
}

func TestCertificateIsTheHosts(t *testing.T) {
	one, two := new(tls.Certificate), new(tls.Certificate)
	table := ingress.NewTable(nil, map[string]*tls.Certificate{"a.example.com": one, "*.example.com": two})
	for host, want := range map[string]*tls.Certificate{
		"a.example.com": one, "b.example.com": two, "example.com": nil, "": nil,
	} {
		if table.Certificate(host) != want {
			t.Errorf("%q shows another certificate", host)
		}
	}
}
