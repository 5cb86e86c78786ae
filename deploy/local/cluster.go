package local

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"

	"orlop.dev/deploy/local/internal/kubernetes"
	"orlop.dev/facade/home"
	facade "orlop.dev/facade/kubernetes"
	"orlop.dev/kit/auth"
	rights "orlop.dev/kit/auth/kubernetes"
	"orlop.dev/kit/auth/tokenfile"
)

const (
	// facadeUser is who the facade is to an API of our own.
	facadeUser = "orlop:facade"
	// administrator is who the user is where there is no API.
	administrator = "orlop:admin"
	stopTimeout   = 20 * time.Second
)

// cluster is the Kubernetes API that the facade works on.
type cluster struct {
	rest     *rest.Config
	user     string
	endpoint string             // host:port of an API of our own, else empty
	own      *kubernetes.Server // nil for a cluster of the user's
}

func (d *daemon) startKubernetes(ctx context.Context) (string, error) {
	if d.settings.Kubeconfig != "" {
		return d.joinKubernetes(ctx)
	}
	binary, err := kubeBinary()
	if err != nil {
		return "", err
	}
	server, err := kubernetes.Start(ctx, kubernetes.Options{
		Binary: binary, Dir: d.home.Kubernetes(), Address: d.doors.kubernetes,
		Etcd:   kubernetes.Etcd{Endpoints: []string{d.store.Endpoint()}},
		Users:  []kubernetes.User{{Name: facadeUser, Groups: []string{kubernetes.Masters}}},
		Logger: d.logger,
	})
	if err != nil {
		return "", err
	}
	d.stack.push("Kubernetes API", func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		server.Stop(ctx)
		return nil
	})
	d.stack.watch("Kubernetes API", server.Done(), server.Err)
	config, err := server.RESTConfig(facadeUser)
	if err != nil {
		return "", err
	}
	d.cluster = &cluster{rest: unthrottled(config), user: facadeUser, endpoint: d.doors.kubernetes.String(), own: server}
	return d.describeKubernetes(), d.keepAdministrator(server)
}

// describeKubernetes says which version is where, as far as it tells.
func (d *daemon) describeKubernetes() string {
	client, err := clientset.NewForConfig(d.cluster.rest)
	if err != nil {
		return d.cluster.endpoint
	}
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		return d.cluster.endpoint
	}
	return d.cluster.endpoint + ", version " + version.GitVersion
}

// keepAdministrator puts the user's credentials where the user looks for them.
func (d *daemon) keepAdministrator(server *kubernetes.Server) error {
	kubeconfig, err := os.ReadFile(server.Kubeconfig())
	if err != nil {
		return err
	}
	config, err := server.RESTConfig(kubernetes.Admin)
	if err != nil {
		return err
	}
	if err := home.WriteFile(d.home.Kubeconfig(), kubeconfig); err != nil {
		return err
	}
	return home.WriteFile(d.home.Token(), []byte(config.BearerToken+"\n"))
}

// joinKubernetes uses a cluster of the user's, with the rights of the user.
func (d *daemon) joinKubernetes(ctx context.Context) (string, error) {
	content, err := os.ReadFile(d.settings.Kubeconfig)
	if err != nil {
		return "", err
	}
	config, err := clientcmd.BuildConfigFromFlags("", d.settings.Kubeconfig)
	if err != nil {
		return "", fmt.Errorf("%s: %w", d.settings.Kubeconfig, err)
	}
	client, err := clientset.NewForConfig(config)
	if err != nil {
		return "", err
	}
	self, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("ask the cluster who the user of %s is: %w", d.settings.Kubeconfig, err)
	}
	d.cluster = &cluster{rest: unthrottled(config), user: self.Status.UserInfo.Username}
	if err := home.WriteFile(d.home.Kubeconfig(), content); err != nil {
		return "", err
	}
	detail := config.Host + " as " + d.cluster.user
	if config.BearerToken == "" {
		// REST and gRPC take tokens, which a certificate can't be turned into.
		return detail + "; its kubeconfig has no token: make one with kubectl create token and write it to " + d.home.Token(), nil
	}
	return detail, home.WriteFile(d.home.Token(), []byte(config.BearerToken+"\n"))
}

// unthrottled leaves it to the server to say when there are too many requests.
func unthrottled(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	c.QPS = -1
	return c
}

// kubeBinary is the one that was built beside this program.
func kubeBinary() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(filepath.Dir(self), "kube")
	if _, err := os.Stat(binary); err != nil {
		return "", fmt.Errorf("%w: tools/kubernetes/build.sh builds it (make build); --kubernetes=none does without", err)
	}
	return binary, nil
}

// guard decides who may come in at REST and gRPC.
func (d *daemon) guard() (*auth.Guard, error) {
	if d.cluster == nil {
		return d.tokenGuard()
	}
	client, err := clientset.NewForConfig(d.cluster.rest)
	if err != nil {
		return nil, err
	}
	kube := rights.New(client, clock.RealClock{})
	return auth.NewGuard(kube, kube), nil
}

func (d *daemon) tokenGuard() (*auth.Guard, error) {
	token, err := tokenfile.Ensure(d.home.TokenFile(), auth.User{
		Name: administrator, UID: administrator, Groups: []string{tokenfile.Masters},
	})
	if err != nil {
		return nil, err
	}
	users, err := tokenfile.Load(d.home.TokenFile())
	if err != nil {
		return nil, err
	}
	return auth.NewGuard(users, tokenfile.Rights{}), home.WriteFile(d.home.Token(), []byte(token+"\n"))
}

// installKinds teaches the API the kinds, and only then starts the controllers:
// the garbage collector looks at the kinds that there are when it starts.
func (d *daemon) installKinds(ctx context.Context) (string, error) {
	operator, err := d.newOperator()
	if err != nil {
		return "", err
	}
	if err := operator.Install(ctx); err != nil {
		return "", err
	}
	d.operator = operator
	if d.cluster.own == nil {
		return "", nil
	}
	return "", d.cluster.own.StartControllerManager()
}

func (d *daemon) newOperator() (*facade.Operator, error) {
	conn, err := d.peers.as("facade")
	if err != nil {
		return nil, err
	}
	external, err := d.settings.NodePorts()
	if err != nil {
		return nil, err
	}
	return facade.New(facade.Options{
		REST: d.cluster.rest, User: d.cluster.user,
		Connect: toAll(conn),
		Listen:  d.doors.webhook.String(), Certificate: d.identity.server, CABundle: d.identity.authority.CertificatePEM(),
		URL:     "https://" + d.doors.webhook.String(),
		Publish: d.cluster.own != nil, NodeExternalIP: external,
		Logger: d.logger,
	})
}

// startFacade returns when the admission webhook answers: until then nobody
// can create anything.
func (d *daemon) startFacade(ctx context.Context) (string, error) {
	d.stack.run("facade", d.operator.Run)
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: &tls.Config{
		RootCAs: d.identity.authority.Pool(), MinVersion: tls.VersionTLS12,
	}}
	return "", poll(ctx, func() error {
		conn, err := dialer.DialContext(ctx, "tcp", d.doors.webhook.String())
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
