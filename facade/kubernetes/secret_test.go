package kubernetes_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"orlop.dev/facade/kubernetes"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/serve/servetest"
)

// api plays the Secrets of a Kubernetes API, over real HTTP.
type api struct{ status atomic.Int64 }

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if status := a.status.Load(); status != 0 {
		w.WriteHeader(int(status))
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"hunter2"}`))
		return
	}
	if r.Method != http.MethodGet || r.URL.Path != "/api/v1/namespaces/team/secrets/pull" {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`))
		return
	}
	secret := corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte("{}")}}
	secret.APIVersion, secret.Kind = "v1", "Secret"
	_ = json.NewEncoder(w).Encode(secret) // the client sees what is missing
}

// port is the port over real gRPC.
func port(t *testing.T, a *api) secretv1.SecretServiceClient {
	t.Helper()
	apiServer := httptest.NewServer(a)
	t.Cleanup(apiServer.Close)
	secrets, err := kubernetes.NewSecrets(&rest.Config{
		Host: apiServer.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"},
	})
	if err != nil {
		t.Fatal(err)
	}
	conn, _ := servetest.Host(t, secrets.Part())
	return secretv1.NewSecretServiceClient(conn)
}

func TestSecretIsReadAsItIs(t *testing.T) {
	secret, err := port(t, &api{}).GetSecret(t.Context(), &secretv1.GetSecretRequest{Namespace: "team", Name: "pull"})
	if err != nil || secret.GetType() != "kubernetes.io/dockerconfigjson" || string(secret.GetData()[".dockerconfigjson"]) != "{}" {
		t.Fatalf("got %v, %v", secret.GetType(), err)
	}
}

func TestSecretThatCannotBeReadSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		status          int64
		namespace, name string
		want            fault.Class
	}{
		"missing":      {0, "team", "push", fault.NotFound},
		"no namespace": {0, "", "pull", fault.Invalid},
		"no name":      {0, "team", "", fault.Invalid},
		"forbidden":    {http.StatusForbidden, "team", "pull", fault.Transient},
		"down":         {http.StatusInternalServerError, "team", "pull", fault.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			a := &api{}
			a.status.Store(c.status)
			_, err := port(t, a).GetSecret(t.Context(), &secretv1.GetSecretRequest{Namespace: c.namespace, Name: c.name})
			if got := fault.ClassOf(err); got != c.want {
				t.Errorf("class %v, want %v: %v", got, c.want, err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the answer of the API went over the wire: %v", err)
			}
		})
	}
}
