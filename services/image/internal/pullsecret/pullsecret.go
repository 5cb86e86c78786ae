// Package pullsecret finds the credentials of registries in users' Secrets, which
// it asks the SecretService for each time and keeps nowhere.
//
// It must not know who may read a Secret: that is asked at admission.
package pullsecret

import (
	"context"
	"time"

	"google.golang.org/grpc"

	secretv1 "orlop.dev/gen/orlop/secret/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/containerimage"
	"orlop.dev/services/image/internal/failure"
)

// Why there are no credentials.
const (
	// ReasonNotFound says that the Secret isn't there (yet).
	ReasonNotFound failure.Reason = "ContainerRegistrySecretNotFound"
	// ReasonUnavailable says that Secrets can't be read now.
	ReasonUnavailable failure.Reason = "SecretsUnavailable"
	// ReasonNoSecrets says that Secrets can't be read here at all.
	ReasonNoSecrets failure.Reason = "NotSupported"
)

const (
	// secretType and its one key are Kubernetes'.
	secretType = "kubernetes.io/dockerconfigjson"
	secretKey  = ".dockerconfigjson"
	readWait   = 20 * time.Second
)

// Reader reads Secrets. Its failures are of package failure and hold nothing of a
// Secret's content.
type Reader struct{ secrets secretv1.SecretServiceClient }

// New returns a reader by way of conn; where that is nil, each read says that
// there are no Secrets.
func New(conn grpc.ClientConnInterface) *Reader {
	if conn == nil {
		return &Reader{}
	}
	return &Reader{secrets: secretv1.NewSecretServiceClient(conn)}
}

// Read returns the credentials in a Secret.
func (r *Reader) Read(ctx context.Context, namespace, name string) (containerimage.Keychain, error) {
	var none containerimage.Keychain
	if r.secrets == nil {
		return none, failure.Terminalf(ReasonNoSecrets,
			"imagePullSecret needs a Kubernetes API, which has the Secret; there is none here")
	}
	ctx, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	secret, err := r.secrets.GetSecret(ctx, &secretv1.GetSecretRequest{Namespace: namespace, Name: name})
	switch {
	case fault.Is(err, fault.NotFound):
		return none, failure.Temporaryf(ReasonNotFound, nil, "Secret %s/%s isn't there", namespace, name)
	case err != nil:
		return none, failure.Temporaryf(ReasonUnavailable, err, "Secret %s/%s can't be read now", namespace, name)
	}
	text, ok := secret.GetData()[secretKey]
	if secret.GetType() != secretType || !ok {
		return none, failure.Terminalf(containerimage.ReasonInvalidSecret, "Secret %s/%s is not of type %s", namespace, name, secretType)
	}
	return containerimage.ParseKeychain(text)
}
