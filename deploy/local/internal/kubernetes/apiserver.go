package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

const (
	apiserverName = "kube-apiserver"

	serviceIssuer = "https://kubernetes.default.svc"

	readyTimeout  = 2 * time.Minute // a machine that is busy building takes far longer than the usual seconds
	readyInterval = 50 * time.Millisecond
)

// ServiceNetwork is where the cluster IPs of Services come from. The API itself takes the first address.
var ServiceNetwork = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 222}), 16)

// Groups that nothing here serves a purpose for: no kubelet runs their pods, no controller acts on them. Leaving them out saves memory and
// tells the user so at once. networking.k8s.io must stay whatever happens: the API server dies without it.
var unservedGroups = []string{
	"autoscaling/v1", "autoscaling/v2", "batch/v1", "certificates.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1", "node.k8s.io/v1", "resource.k8s.io/v1",
}

// Admission that waits for somebody who isn't here: the first taints each new node until the node controller finds it healthy, the second puts
// a finalizer on each volume claim that another controller takes off, and the third needs a group that isn't served.
var unservedAdmission = []string{"TaintNodesByCondition", "StorageObjectInUseProtection", "RuntimeClass"}

// apiserverArguments is the command line of kube-apiserver. Secrets are in files, as anybody may read a command line.
func apiserverArguments(etcd Etcd, dir folder, address netip.AddrPort) []string {
	arguments := []string{
		"--bind-address=" + address.Addr().String(),
		"--secure-port=" + strconv.Itoa(int(address.Port())),
		"--advertise-address=" + address.Addr().String(), // else it looks for a default route, which an offline machine lacks
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + dir.path(servingFile),
		"--tls-private-key-file=" + dir.path(servingFile),

		apiserverMarker(dir),
		"--anonymous-auth=false", // who asks for the state of health has a token too
		"--authorization-mode=RBAC",
		"--service-account-issuer=" + serviceIssuer,
		"--service-account-signing-key-file=" + dir.path(accountKeyFile),
		"--service-account-key-file=" + dir.path(accountKeyFile),
		"--service-cluster-ip-range=" + ServiceNetwork.String(),

		"--disable-admission-plugins=" + strings.Join(unservedAdmission, ","),
		"--runtime-config=" + strings.Join(unservedGroups, "=false,") + "=false",
		"--enable-priority-and-fairness=false", // one user's machine: the plain limit on requests will do
		"--profiling=false",
	}
	return append(arguments, etcdArguments(etcd)...)
}

// apiserverMarker is the argument by which the kube-apiserver of a folder is known from any other.
func apiserverMarker(dir folder) string { return "--token-auth-file=" + dir.path(tokensFile) }

func etcdArguments(etcd Etcd) []string {
	arguments := []string{
		"--etcd-servers=" + strings.Join(etcd.Endpoints, ","),
		"--etcd-prefix=" + etcd.Prefix,
	}
	if etcd.CAFile == "" {
		return arguments
	}
	return append(arguments, "--etcd-cafile="+etcd.CAFile, "--etcd-certfile="+etcd.CertFile, "--etcd-keyfile="+etcd.KeyFile)
}

// awaitReady returns when kube-apiserver says that it is ready, or with the reason why it won't be.
func (s *Server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	config, err := s.RESTConfig(Admin)
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		notReady := askReady(ctx, client, s.URL()+"/readyz")
		if notReady == nil {
			return nil
		}
		select {
		case <-s.apiserver.ended:
			return s.apiserver.unasked()
		case <-ctx.Done():
			return fmt.Errorf("%s isn't ready: %w; its last answer: %w; its last words:\n%s", apiserverName, ctx.Err(), notReady, s.apiserver.lastWords())
		case <-tick.C:
		}
	}
}

// askReady returns nil if the server at the URL is ready, and what it lacks otherwise.
func askReady(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, 16<<10))
	return errors.Join(fmt.Errorf("%s: %s", response.Status, body), err)
}
