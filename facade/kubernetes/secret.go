package kubernetes

import (
	"context"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	secretv1 "orlop.dev/gen/orlop/secret/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/serve"
)

// markAnnotation is on each Secret that a service has made again.
const markAnnotation = "snapshot.orlop.dev/restored-by"

// Secrets is the port by which services read Secrets of the Kubernetes API. It
// keeps none: each call reads what is there.
type Secrets struct {
	secretv1.UnimplementedSecretServiceServer
	client clientset.Interface
	// names sees that Secrets change, and never their content.
	names metadata.Interface
}

// NewSecrets returns the port to the API server behind config, whose user must be
// allowed to get and watch Secrets.
func NewSecrets(config *rest.Config) (*Secrets, error) {
	client, err := clientset.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	names, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &Secrets{client: client, names: names}, nil
}

// Part is the port as a piece of a process.
func (s *Secrets) Part() serve.Part {
	return serve.Part{
		Name: "secrets",
		Register: func(registrar grpc.ServiceRegistrar) error {
			secretv1.RegisterSecretServiceServer(registrar, s)
			return nil
		},
		Ready: func(context.Context) error { return nil },
	}
}

// GetSecret implements SecretServiceServer.
func (s *Secrets) GetSecret(ctx context.Context, request *secretv1.GetSecretRequest) (*secretv1.Secret, error) {
	if request.GetNamespace() == "" || request.GetName() == "" {
		return nil, fault.Refuse("name", "FieldValueRequired", "a Secret is named by namespace and name")
	}
	found, err := s.client.CoreV1().Secrets(request.GetNamespace()).Get(ctx, request.GetName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fault.New(fault.NotFound, "SecretNotFound", "Secret %s/%s is not there", request.GetNamespace(), request.GetName())
	case err != nil:
		return nil, unavailable(err)
	}
	return &secretv1.Secret{Type: string(found.Type), Data: found.Data}, nil
}

// CreateSecret implements SecretServiceServer.
func (s *Secrets) CreateSecret(ctx context.Context, request *secretv1.CreateSecretRequest) (*secretv1.CreateSecretResponse, error) {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: request.GetNamespace(), Name: request.GetName(),
			Annotations: map[string]string{markAnnotation: request.GetSecret().GetMark()},
		},
		Type: corev1.SecretType(request.GetSecret().GetType()), Data: request.GetSecret().GetData(),
	}
	_, err := s.client.CoreV1().Secrets(request.GetNamespace()).Create(ctx, secret, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil, fault.New(fault.Exists, "SecretExists", "Secret %s/%s exists", request.GetNamespace(), request.GetName())
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		// The API server's words may have the content in them.
		return nil, fault.New(fault.Invalid, "SecretRefused", "the Kubernetes API refuses Secret %s/%s", request.GetNamespace(), request.GetName())
	case err != nil:
		return nil, fault.Wrap(err, fault.Transient, "KubernetesUnavailable", "the Kubernetes API can't make a Secret now")
	}
	return &secretv1.CreateSecretResponse{}, nil
}

// DeleteSecret implements SecretServiceServer.
func (s *Secrets) DeleteSecret(ctx context.Context, request *secretv1.DeleteSecretRequest) (*secretv1.DeleteSecretResponse, error) {
	secrets := s.client.CoreV1().Secrets(request.GetNamespace())
	found, err := secrets.Get(ctx, request.GetName(), metav1.GetOptions{})
	if err == nil && found.Annotations[markAnnotation] == request.GetMark() {
		err = secrets.Delete(ctx, request.GetName(), metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(found.UID))})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fault.Wrap(err, fault.Transient, "KubernetesUnavailable", "the Kubernetes API can't delete a Secret now")
	}
	return &secretv1.DeleteSecretResponse{}, nil
}

// WatchSecrets implements SecretServiceServer.
func (s *Secrets) WatchSecrets(_ *secretv1.WatchSecretsRequest, stream grpc.ServerStreamingServer[secretv1.WatchSecretsResponse]) error {
	// A watch that names no version begins with all that there is.
	changes, err := s.names.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Watch(stream.Context(), metav1.ListOptions{})
	if err != nil {
		return unavailable(err)
	}
	defer changes.Stop()
	for event := range changes.ResultChan() {
		changed, ok := event.Object.(*metav1.PartialObjectMetadata)
		if event.Type == watch.Error || !ok {
			return unavailable(apierrors.FromObject(event.Object))
		}
		if err := stream.Send(&secretv1.WatchSecretsResponse{Namespace: changed.GetNamespace(), Name: changed.GetName()}); err != nil {
			return err
		}
	}
	// The API server ends each watch after a while: the caller begins another.
	return unavailable(stream.Context().Err())
}

func unavailable(err error) error {
	return fault.Wrap(err, fault.Transient, "KubernetesUnavailable", "the Kubernetes API can't give a Secret now")
}
