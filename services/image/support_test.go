package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
)

// traffic counts the bytes of bodies that pass a registry.
type traffic struct{ bytes atomic.Int64 }

func (c *traffic) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &countedBody{ReadCloser: r.Body, traffic: c}
		next.ServeHTTP(&countedResponse{ResponseWriter: w, traffic: c}, r)
	})
}

type countedBody struct {
	io.ReadCloser
	traffic *traffic
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.traffic.bytes.Add(int64(n))
	return n, err
}

type countedResponse struct {
	http.ResponseWriter
	traffic *traffic
}

func (r *countedResponse) Write(p []byte) (int, error) {
	n, err := r.ResponseWriter.Write(p)
	r.traffic.bytes.Add(int64(n))
	return n, err
}

// logs keeps what a service logs.
type logs struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// secrets is a SecretService with what tests put into it.
type secrets struct {
	secretv1.UnimplementedSecretServiceServer
	mu   sync.Mutex
	kept map[string]*secretv1.Secret
}

func (s *secrets) connect(t *testing.T) grpc.ClientConnInterface {
	t.Helper()
	server := grpc.NewServer(grpc.UnaryInterceptor(fault.UnaryServerInterceptor))
	secretv1.RegisterSecretServiceServer(server, s)
	t.Cleanup(server.Stop)
	return connect(t, server)
}

func (s *secrets) GetSecret(_ context.Context, r *secretv1.GetSecretRequest) (*secretv1.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.kept[r.GetNamespace()+"/"+r.GetName()]; found != nil {
		return found, nil
	}
	return nil, fault.New(fault.NotFound, "SecretNotFound", "no such Secret")
}

// put keeps the credentials of a registry.
func (s *secrets) put(name, registry, username, password string) {
	auth := base64.StdEncoding.EncodeToString([]byte(username + ":" + password))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept = map[string]*secretv1.Secret{}
	}
	s.kept[name] = &secretv1.Secret{
		Type: "kubernetes.io/dockerconfigjson",
		Data: map[string][]byte{".dockerconfigjson": fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, registry, auth)},
	}
}

// containerDisk is a registry of users' images that has one, disks/ubuntu:1.
func containerDisk(t *testing.T, disk []byte, secure bool) *dvcrtest.Registry {
	t.Helper()
	filled := dvcrtest.Start(t, dvcrtest.Options{})
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "disk/ubuntu.img", Typeflag: tar.TypeReg, Size: int64(len(disk)), Mode: 0o444}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(disk); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	stored, config := filled.Put(t, "disks/ubuntu", layer.Bytes()), filled.Put(t, "disks/ubuntu", []byte("{}"))
	text, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: config.Digest, Size: config.Size},
		Layers: []v1.Descriptor{{MediaType: v1.MediaTypeImageLayer, Digest: stored.Digest, Size: stored.Size}},
	})
	if err != nil {
		t.Fatal(err)
	}
	target := "http://" + filled.Options.Endpoint + "/v2/disks/ubuntu/manifests/1"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, target, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", v1.MediaTypeImageManifest)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		t.Fatal(response.Status)
	}
	if !secure {
		return filled
	}
	return dvcrtest.Start(t, dvcrtest.Options{Secure: true, Root: filled.Root})
}

// from is a source that is another object.
func from(kind imagev1.ObjectRefKind_Value, name string) *imagev1.DataSource {
	return &imagev1.DataSource{
		Type: imagev1.DataSourceType_ObjectRef, ObjectRef: &imagev1.ObjectRef{Kind: kind, Name: name},
	}
}
