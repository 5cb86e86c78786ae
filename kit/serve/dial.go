package serve

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"orlop.dev/kit/fault"
)

// Dial returns a connection to a service of the suite. It does not block: a
// service that is down is tried again, with back-off, for as long as the
// connection is open. Errors of calls are faults. Reads (Get and List) that
// found the service unavailable are tried again a few times; everything else is
// the caller's to repeat, who knows whether that is safe.
func Dial(target string, t *tls.Config, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	config, err := serviceConfig()
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(t)),
		grpc.WithDefaultServiceConfig(config),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(MaxMessageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.WithChainUnaryInterceptor(fault.UnaryClientInterceptor),
		grpc.WithChainStreamInterceptor(fault.StreamClientInterceptor),
	}, options...)...)
}

// BearerToken is the credential of a user, for grpc.WithPerRPCCredentials. It
// is sent over TLS only.
type BearerToken string

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t BearerToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (t BearerToken) RequireTransportSecurity() bool { return true }

// String keeps the token out of logs.
func (t BearerToken) String() string { return "(token)" }

// GoString keeps the token out of logs.
func (t BearerToken) GoString() string { return t.String() }

// serviceConfig names every method that may be repeated. Service configs know
// no patterns, so the names come from the descriptors linked in.
var serviceConfig = sync.OnceValues(func() (string, error) {
	type name struct {
		Service string `json:"service"`
		Method  string `json:"method"`
	}
	type methodConfig struct {
		Name        []name         `json:"name"`
		RetryPolicy map[string]any `json:"retryPolicy"`
	}
	var reads []name
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for j := range methods.Len() {
				if m := methods.Get(j); readOnly(m) {
					reads = append(reads, name{string(m.Parent().FullName()), string(m.Name())})
				}
			}
		}
		return true
	})
	if len(reads) == 0 {
		return "{}", nil
	}
	config, err := json.Marshal(map[string]any{"methodConfig": []methodConfig{{
		Name: reads,
		RetryPolicy: map[string]any{
			"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
			"retryableStatusCodes": []string{"UNAVAILABLE"},
		},
	}}})
	return string(config), err
})

func readOnly(m protoreflect.MethodDescriptor) bool {
	if m.IsStreamingClient() || m.IsStreamingServer() {
		return false
	}
	return strings.HasPrefix(string(m.Name()), "Get") || strings.HasPrefix(string(m.Name()), "List")
}
