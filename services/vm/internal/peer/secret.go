package peer

import (
	"context"
	"time"

	"google.golang.org/grpc"

	secretv1 "orlop.dev/gen/orlop/secret/v1"
	"orlop.dev/kit/resource"
)

const (
	// secretWait bounds one look at a Secret.
	secretWait = 10 * time.Second
	// secretPause is between two watches of Secrets: each ends by itself after a
	// while, and one that fails at once must not turn hot.
	secretPause = time.Second
)

// Secrets implements machine.Secrets. It keeps nothing: each look asks.
type Secrets struct {
	client  secretv1.SecretServiceClient
	changed func(resource.Key)
}

// NewSecrets reads Secrets by way of conn, and tells which change.
func NewSecrets(conn grpc.ClientConnInterface, changed func(resource.Key)) *Secrets {
	return &Secrets{client: secretv1.NewSecretServiceClient(conn), changed: changed}
}

// Secret implements machine.Secrets.
func (s *Secrets) Secret(ctx context.Context, namespace, name string) (*secretv1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, secretWait)
	defer cancel()
	return s.client.GetSecret(ctx, &secretv1.GetSecretRequest{Namespace: namespace, Name: name})
}

// Run tells of changes until ctx ends. Each watch begins with all Secrets that
// there are, so that nothing is missed in between.
func (s *Secrets) Run(ctx context.Context) error {
	return repeat(ctx, secretPause, func() { s.follow(ctx) })
}

func (s *Secrets) follow(ctx context.Context) {
	stream, err := s.client.WatchSecrets(ctx, &secretv1.WatchSecretsRequest{})
	for err == nil {
		var response *secretv1.WatchSecretsResponse
		if response, err = stream.Recv(); err == nil {
			s.changed(resource.Key{Namespace: response.GetNamespace(), Name: response.GetName()})
		}
	}
}

// repeat does something until ctx ends, with pauses.
func repeat(ctx context.Context, pause time.Duration, do func()) error {
	for {
		do()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}
