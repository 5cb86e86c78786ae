package serve

import (
	"crypto/tls"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"orlop.dev/kit/fault"
)

// Pings keep connections through middleboxes and find dead peers. Callers
// (see Dial) ping every 30 s; the server tolerates three times as often.
const (
	pingEvery    = 30 * time.Second
	pingTimeout  = 10 * time.Second
	pingMinimum  = 10 * time.Second
	handshakeMax = 10 * time.Second
)

// newServer makes the server with everything registered on it.
//
// The order of the interceptors matters: faults become statuses outermost, so
// that what is logged and counted within still has its cause; a panic becomes a
// fault before that; the guard is next to the handler.
func (p *process) newServer(t *tls.Config) (*grpc.Server, error) {
	o, err := newObserver(p.config.Logger, p.config.Registry)
	if err != nil {
		return nil, err
	}
	s := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(t)),
		grpc.ConnectionTimeout(handshakeMax),
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingMinimum, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(fault.UnaryServerInterceptor, o.unary, recoverUnary, p.config.Guard.Unary()),
		grpc.ChainStreamInterceptor(fault.StreamServerInterceptor, o.stream, recoverStream, p.drain.stream, p.config.Guard.Stream()),
	)
	grpc_health_v1.RegisterHealthServer(s, p.health.server)
	for _, part := range p.parts {
		names := &nameRecorder{ServiceRegistrar: s}
		if part.Register != nil {
			if err := part.Register(names); err != nil {
				return nil, fmt.Errorf("register %s: %w", part.Name, err)
			}
		}
		p.health.expect(part.Name, names.names)
	}
	reflection.RegisterV1(s)
	return s, nil
}

// nameRecorder notes which services a part registers: their health is its.
type nameRecorder struct {
	grpc.ServiceRegistrar
	names []string
}

func (r *nameRecorder) RegisterService(desc *grpc.ServiceDesc, impl any) {
	r.names = append(r.names, desc.ServiceName)
	r.ServiceRegistrar.RegisterService(desc, impl)
}
