package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// deadline is for anything that a busy machine may take long over. Nothing waits for it in a good run.
const deadline = 3 * time.Minute

var loopback = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)

// TestServer tells one story, as a start costs seconds: each part builds on the ones before.
func TestServer(t *testing.T) {
	ctx := t.Context()
	const suiteUser, ordinaryUser = "system:orlop:facade", "jane"
	server := start(t, Options{
		Dir:     t.TempDir(),
		Address: loopback,
		Users:   []User{{Name: suiteUser, Groups: []string{Masters}}, {Name: ordinaryUser}},
		Etcd:    Etcd{Endpoints: []string{startEtcd(t)}},
	})
	client := clientFor(t, server, Admin)

	t.Run("the kubeconfig is Admin's", func(t *testing.T) {
		config, err := clientcmd.BuildConfigFromFlags("", server.Kubeconfig())
		check(t, err)
		review, err := clientset.NewForConfigOrDie(config).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		check(t, err)
		if got := review.Status.UserInfo.Username; got != Admin {
			t.Errorf("the kubeconfig speaks for %q, want %q", got, Admin)
		}
	})
	t.Run("an unknown user has no configuration", func(t *testing.T) {
		if _, err := server.RESTConfig("nobody"); !errors.Is(err, ErrUnknownUser) {
			t.Errorf("got %v, want ErrUnknownUser", err)
		}
	})
	t.Run("the directory has one owner", func(t *testing.T) {
		if _, err := Start(ctx, server.options); !errors.Is(err, ErrInUse) {
			t.Errorf("got %v, want ErrInUse", err)
		}
	})
	t.Run("tokens are told apart", func(t *testing.T) { testTokens(t, server, client, suiteUser) })
	t.Run("rights are RBAC's", func(t *testing.T) {
		for user, want := range map[string]bool{Admin: true, suiteUser: true, ordinaryUser: false, "stranger": false} {
			if got := mayCreateSecrets(t, client, user, groupsOf(server, user)); got != want {
				t.Errorf("may %s create secrets: %v, want %v", user, got, want)
			}
		}
	})
	t.Run("a custom resource definition is Established", func(t *testing.T) { testDefinition(t, server) })
	t.Run("a webhook is asked", func(t *testing.T) { testWebhook(t, client) })
	check(t, server.StartControllerManager())
	check(t, server.StartControllerManager()) // again: nothing
	t.Run("controllers are at work", func(t *testing.T) { testControllers(t, client) })
	t.Run("stop leaves no process", func(t *testing.T) {
		pids := []int{server.apiserver.pid(), server.controllerManager.pid()}
		server.Stop(ctx)
		for _, pid := range pids {
			if alive(pid) {
				t.Errorf("process %d is still there", pid)
			}
		}
		<-server.Done()
		if err := server.Err(); err != nil {
			t.Errorf("an orderly stop is an error: %v", err)
		}
		if err := server.StartControllerManager(); !errors.Is(err, ErrStopped) {
			t.Errorf("got %v, want ErrStopped", err)
		}
	})
}

func testTokens(t *testing.T, server *Server, client clientset.Interface, user string) {
	config, err := server.RESTConfig(user)
	check(t, err)
	for token, want := range map[string]string{config.BearerToken: user, "made-up": ""} {
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
		review, err := client.AuthenticationV1().TokenReviews().Create(t.Context(), review, metav1.CreateOptions{})
		check(t, err)
		if got := review.Status; got.User.Username != want || got.Authenticated != (want != "") {
			t.Errorf("the token is %q's (authenticated: %v), want %q's", got.User.Username, got.Authenticated, want)
		}
	}
	config.BearerToken = ""
	_, err = clientset.NewForConfigOrDie(config).Discovery().ServerVersion()
	if !apierrors.IsUnauthorized(err) {
		t.Errorf("with no token: %v, want Unauthorized", err)
	}
}

func testDefinition(t *testing.T, server *Server) {
	config, err := server.RESTConfig(Admin)
	check(t, err)
	definitions := apiextensions.NewForConfigOrDie(config).ApiextensionsV1().CustomResourceDefinitions()
	preserve := true
	definition := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "barrels.orlop.test"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "orlop.test",
			Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "barrels", Singular: "barrel", Kind: "Barrel", ListKind: "BarrelList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object", XPreserveUnknownFields: &preserve,
				}},
			}},
		},
	}
	_, err = definitions.Create(t.Context(), definition, metav1.CreateOptions{})
	check(t, err)
	eventually(t, "the definition is Established", func(ctx context.Context) (bool, error) {
		found, err := definitions.Get(ctx, definition.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, condition := range found.Status.Conditions {
			if condition.Type == apiextensionsv1.Established && condition.Status == apiextensionsv1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
}

// testControllers fills a namespace and deletes it, with what each controller does in between.
func testControllers(t *testing.T, client clientset.Interface) {
	ctx := t.Context()
	const namespace = "hold"
	_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	check(t, err)
	eventually(t, "the namespace has its default account", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return found(err)
	})
	eventually(t, "the namespace has the API's CA", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return found(err)
	})
	testQuota(t, client, namespace)
	testGarbage(t, client, namespace)
	check(t, client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}))
	eventually(t, "the namespace is gone", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return gone(err)
	})
}

func testQuota(t *testing.T, client clientset.Interface, namespace string) {
	ctx := t.Context()
	limits := corev1.ResourceList{"count/services": resource.MustParse("1"), "count/barrels.orlop.test": resource.MustParse("5")}
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "few"}, Spec: corev1.ResourceQuotaSpec{Hard: limits}}
	_, err := client.CoreV1().ResourceQuotas(namespace).Create(ctx, quota, metav1.CreateOptions{})
	check(t, err)
	service := func(name string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	eventually(t, "the quota is known to admission", func(ctx context.Context) (bool, error) {
		quota, err := client.CoreV1().ResourceQuotas(namespace).Get(ctx, quota.Name, metav1.GetOptions{})
		return err == nil && len(quota.Status.Hard) == len(limits), err
	})
	_, err = client.CoreV1().Services(namespace).Create(ctx, service("first"), metav1.CreateOptions{})
	check(t, err)
	if _, err = client.CoreV1().Services(namespace).Create(ctx, service("second"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("past the quota: %v, want Forbidden", err)
	}
}

func testGarbage(t *testing.T, client clientset.Interface, namespace string) {
	ctx := t.Context()
	secrets := client.CoreV1().Secrets(namespace)
	owner, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	check(t, err)
	reference := metav1.OwnerReference{APIVersion: "v1", Kind: "Secret", Name: owner.Name, UID: owner.UID}
	_, err = secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{reference}}}, metav1.CreateOptions{})
	check(t, err)
	check(t, secrets.Delete(ctx, owner.Name, metav1.DeleteOptions{}))
	eventually(t, "the owned secret went with its owner", func(ctx context.Context) (bool, error) {
		_, err := secrets.Get(ctx, "owned", metav1.GetOptions{})
		return gone(err)
	})
}

func TestStartRefusesAnAddressThatIsTaken(t *testing.T) {
	listener, err := net.Listen("tcp", loopback.String())
	check(t, err)
	defer listener.Close()
	_, err = Start(t.Context(), Options{
		Binary:  os.Args[0], // never run
		Dir:     t.TempDir(),
		Address: netip.MustParseAddrPort(listener.Addr().String()),
		Etcd:    Etcd{Endpoints: []string{"http://127.0.0.1:1"}},
	})
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want EADDRINUSE", err)
	}
}

func TestStartTellsWhyTheAPIServerDied(t *testing.T) {
	dir := t.TempDir()
	_, err := Start(t.Context(), Options{
		Binary:  kube(t),
		Dir:     dir,
		Address: loopback,
		Etcd:    Etcd{Endpoints: []string{"http://127.0.0.1:1"}, CAFile: "none", CertFile: "none", KeyFile: "none"},
	})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Name != apiserverName || exit.LastWords == "" {
		t.Fatalf("got %v, want an ExitError of %s with its last words", err, apiserverName)
	}
	lock, err := folder(dir).lock()
	if err != nil {
		t.Fatalf("a failed start keeps the directory: %v", err)
	}
	check(t, lock.Close())
}

// TestStartAfterTheParentWasKilled kills the process that runs a Server (this test binary again, as TestParent) and starts in its place.
func TestStartAfterTheParentWasKilled(t *testing.T) {
	options := Options{Binary: kube(t), Dir: t.TempDir(), Address: freeAddress(t), Etcd: Etcd{Endpoints: []string{startEtcd(t)}}}
	parent, child := startParent(t, options)
	token := readToken(t, options.Dir, Admin)
	check(t, parent.Process.Kill())
	_ = parent.Wait()

	server := start(t, options) // at once: the killed one's child may still be about
	if alive(child) {
		t.Errorf("process %d of the killed parent is still there", child)
	}
	if got := readToken(t, options.Dir, Admin); got != token {
		t.Error("the token has changed")
	}
	_, err := clientFor(t, server, Admin).CoreV1().Namespaces().Get(t.Context(), parentNamespace, metav1.GetOptions{})
	check(t, err)

	check(t, syscall.Kill(server.apiserver.pid(), syscall.SIGKILL))
	<-server.Done()
	var exit *ExitError
	if err := server.Err(); !errors.As(err, &exit) || exit.Name != apiserverName {
		t.Errorf("after its child was killed: %v, want an ExitError of %s", err, apiserverName)
	}
	if err := server.StartControllerManager(); !errors.As(err, &exit) {
		t.Errorf("after its child was killed: %v, want that ExitError", err)
	}
}

// start runs a server until the test ends.
func start(t *testing.T, options Options) *Server {
	t.Helper()
	options.Binary = kube(t)
	options.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	began := time.Now()
	server, err := Start(t.Context(), options)
	check(t, err)
	t.Cleanup(func() { server.Stop(context.Background()) })
	t.Logf("ready after %v", time.Since(began).Round(time.Millisecond))
	return server
}

// kube is the path of the real binary.
func kube(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("needs the local Kubernetes API: not in the fast run")
	}
	path, err := filepath.Abs("../../../../bin/kube")
	check(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no Kubernetes binary (tools/kubernetes/build.sh makes it): %v", err)
	}
	return path
}

func clientFor(t *testing.T, server *Server, user string) clientset.Interface {
	t.Helper()
	config, err := server.RESTConfig(user)
	check(t, err)
	client, err := clientset.NewForConfig(config)
	check(t, err)
	return client
}

func groupsOf(server *Server, name string) []string {
	for _, user := range append(server.options.Users, User{Name: Admin, Groups: []string{Masters}}) {
		if user.Name == name {
			return user.Groups
		}
	}
	return nil
}

func mayCreateSecrets(t *testing.T, client clientset.Interface, user string, groups []string) bool {
	t.Helper()
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, Groups: groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "create", Resource: "secrets"},
	}}
	review, err := client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
	check(t, err)
	return review.Status.Allowed
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, ask func(context.Context) (bool, error)) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		yes, err := ask(ctx)
		if err == nil && yes {
			t.Logf("%s after %v", what, time.Since(began).Round(time.Millisecond))
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it isn't so that %s: %v", what, err)
		case <-tick.C:
		}
	}
}

func found(err error) (bool, error) {
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

func gone(err error) (bool, error) {
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return false, err
}

// alive tells whether a process runs. One that is dead but not reaped doesn't: it has no command line.
func alive(pid int) bool {
	content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && len(content) > 0
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
