package local

import (
	"context"
	"fmt"
	"os/exec"

	clientset "k8s.io/client-go/kubernetes"

	"orlop.dev/deploy/local/internal/kubernetes"
	"orlop.dev/deploy/local/internal/publish"
)

// startProxy makes Services lead from guest to guest, where guests have a
// network that it can be done in.
func (d *daemon) startProxy(ctx context.Context) (string, error) {
	if !d.gateway.IsValid() {
		return "none: guests have QEMU's own network, which Services can't lead into", nil
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return "none: nft is not installed (make setup)", nil //nolint:nilerr // It works without, and says so.
	}
	options := kubernetes.Proxy{
		Namespace: d.home.NetworkNamespace(), Node: nodeNames(1)[0], Address: d.gateway,
	}
	err := poll(ctx, func() error { return d.cluster.own.StartProxy(options) }) // the network service makes the namespace
	return "kube-proxy; the nodes are " + d.gateway.String(), err
}

// startPublisher lets this machine's users in to guests by Services and
// Ingresses.
func (d *daemon) startPublisher(context.Context) (string, error) {
	client, err := clientset.NewForConfig(d.cluster.rest)
	if err != nil {
		return "", err
	}
	nodePorts, err := d.settings.NodePorts()
	if err != nil {
		return "", err
	}
	balancers, err := d.settings.LoadBalancers()
	if err != nil {
		return "", err
	}
	publisher := publish.New(publish.Options{
		Kubernetes: client, Dial: d.reach, NodePorts: nodePorts, LoadBalancers: balancers,
		HTTP: d.settings.IngressHTTPPort, HTTPS: d.settings.IngressHTTPSPort,
		Certificate: d.identity.server, Logger: d.logger.With("part", "publisher"),
	})
	d.stack.run("Services and Ingresses", publisher.Run)
	return fmt.Sprintf("node ports at %s, load balancers in %s", d.settings.PublishAddress, d.settings.LoadBalancerCIDR), nil
}
