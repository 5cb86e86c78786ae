package doors_test

import (
	"errors"
	"io"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	corev1 "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	kubemeta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"
)

// team is a namespace in which the editor may edit and the viewer may view.
const team = "team"

// testRights binds users to Kubernetes' own roles: what they may do by kubectl
// they may do by gRPC, and nothing else.
func (h *house) testRights(t *testing.T) {
	check(t, h.kube.Create(t.Context(), &corev1.Namespace{ObjectMeta: kubemeta.ObjectMeta{Name: team}}))
	h.bind(t, editor, "edit")
	h.bind(t, viewer, "view")
	edits, views := h.kubectlAs(t, editor), h.kubectlAs(t, viewer)
	// Controllers put the kinds' roles into the bound ones, some time.
	h.eventuallyMay(t, edits, "create")
	h.eventuallyMay(t, views, "list")
	byKubectl := render(t, manifestOf(t, "VirtualDisk", "by-kubectl", ""))
	editorDisks, viewerDisks := h.disksAs(t, editor), h.disksAs(t, viewer)

	edits.read(t, byKubectl, "create", "-n", team, "-f", "-")
	_, err := editorDisks.Create(t.Context(), inTeam("by-grpc"), resource.WriteOptions{})
	check(t, err)

	for what, words := range map[string][]string{
		editor + " elsewhere": {"create", "-n", namespace, "-f", "-"},
		viewer + " anywhere":  {"create", "-n", team, "-f", "-"},
	} {
		user := edits
		if what[0] == viewer[0] {
			user = views
		}
		_, err := user.try(t, byKubectl, words...)
		denied(t, what, err, []string{"forbidden", "virtualdisks"})
	}
	_, err = editorDisks.Create(t.Context(), newDisk("elsewhere", "1Mi"), resource.WriteOptions{})
	refused(t, "the editor elsewhere", err)
	_, err = viewerDisks.Create(t.Context(), inTeam("never"), resource.WriteOptions{})
	refused(t, "the viewer creates", err)
	_, err = viewerDisks.Delete(t.Context(), resource.Key{Namespace: team, Name: "by-grpc"}, resource.DeleteOptions{})
	refused(t, "the viewer deletes", err)
	_, err = viewerDisks.List(t.Context(), resource.ListOptions{})
	refused(t, "the viewer lists all namespaces", err)

	views.run(t, "get", "vd", "by-kubectl", "-n", team)
	_, err = viewerDisks.Get(t.Context(), resource.Key{Namespace: team, Name: "by-grpc"})
	check(t, err)
	_, err = views.try(t, "", "delete", "vd", "by-kubectl", "-n", team)
	denied(t, "the viewer deletes by kubectl", err, []string{"forbidden"})
	_, err = editorDisks.Delete(t.Context(), resource.Key{Namespace: team, Name: "by-grpc"}, resource.DeleteOptions{})
	check(t, err)
	edits.run(t, "delete", "vd", "by-kubectl", "-n", team, "--timeout="+deadline.String())
}

// testNobody comes without a credential.
func (h *house) testNobody(t *testing.T) {
	conn := h.connect(t)
	health, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	check(t, err)
	if health.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("the health is %v", health.GetStatus())
	}
	disks, err := resource.NewClient[*diskv1.VirtualDisk](conn, kind.Must(&diskv1.VirtualDisk{}))
	check(t, err)
	if _, err := disks.List(t.Context(), resource.ListOptions{Namespace: namespace}); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("disks: %v", err)
	}
	if _, err := diskv1.NewStorageClassServiceClient(conn).ListStorageClasses(t.Context(), &diskv1.ListStorageClassesRequest{}); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("storage classes: %v", err)
	}
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	check(t, err)
	question := &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(question); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err) // io.EOF says that the server has spoken already
	}
	if _, err := stream.Recv(); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("reflection: %v", err)
	}
	for _, path := range []string{"/api", "/apis/virtualization.deckhouse.io/v1alpha2/namespaces/default/virtualdisks"} {
		if got := h.anonymous(t, path); got != http.StatusUnauthorized {
			t.Errorf("the API server answers %d at %s", got, path)
		}
	}
}

// anonymous asks the API server for a path, and returns the HTTP status.
func (h *house) anonymous(t *testing.T, path string) int {
	t.Helper()
	config, err := h.server.RESTConfig(editor)
	check(t, err)
	client, err := rest.HTTPClientFor(rest.AnonymousClientConfig(config))
	check(t, err)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, config.Host+path, http.NoBody)
	check(t, err)
	response, err := client.Do(request)
	check(t, err)
	check(t, response.Body.Close())
	return response.StatusCode
}

func (h *house) bind(t *testing.T, user, role string) {
	t.Helper()
	check(t, h.kube.Create(t.Context(), &rbac.RoleBinding{
		ObjectMeta: kubemeta.ObjectMeta{Namespace: team, Name: role},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbac.Subject{{APIGroup: rbac.GroupName, Kind: rbac.UserKind, Name: user}},
	}))
}

func (h *house) eventuallyMay(t *testing.T, user kubectl, verb string) {
	t.Helper()
	poll(t, "a user may "+verb, func() bool {
		_, err := user.try(t, "", "auth", "can-i", verb, "virtualdisks", "-n", team)
		return err == nil
	})
}

// connect opens the gRPC door as a user does.
func (h *house) connect(t *testing.T, options ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := serve.Dial(h.address, serve.ClientTLS(h.roots), options...)
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (h *house) disksAs(t *testing.T, user string) *resource.Client[*diskv1.VirtualDisk] {
	t.Helper()
	config, err := h.server.RESTConfig(user)
	check(t, err)
	conn := h.connect(t, grpc.WithPerRPCCredentials(serve.BearerToken(config.BearerToken)))
	disks, err := resource.NewClient[*diskv1.VirtualDisk](conn, kind.Must(&diskv1.VirtualDisk{}))
	check(t, err)
	return disks
}

func inTeam(name string) *diskv1.VirtualDisk {
	d := newDisk(name, "1Mi")
	d.Metadata.Namespace = team
	return d
}

func refused(t *testing.T, what string, err error) {
	t.Helper()
	if !fault.Is(err, fault.Denied) {
		t.Errorf("%s: %v", what, err)
	}
}
