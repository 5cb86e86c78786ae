package local

import (
	"crypto/tls"

	"google.golang.org/grpc"

	"orlop.dev/facade/home"
	"orlop.dev/kit/serve"
)

// identity is who the parts are to each other.
type identity struct {
	authority *serve.Authority
	server    tls.Certificate
}

func openIdentity(h home.Home) (*identity, error) {
	authority, err := serve.OpenAuthority(h.Authority())
	if err != nil {
		return nil, err
	}
	pair, err := authority.Server("127.0.0.1")
	if err != nil {
		return nil, err
	}
	certificate, err := pair.TLS()
	if err != nil {
		return nil, err
	}
	return &identity{authority: authority, server: certificate}, nil
}

// serverTLS is for servers whose callers prove themselves by tokens alone.
func (i *identity) serverTLS() *tls.Config { return serve.ServerTLS(i.server, nil) }

// serviceTLS is for the gRPC server, which knows the services by certificates.
func (i *identity) serviceTLS() *tls.Config { return serve.ServerTLS(i.server, i.authority.Pool()) }

// dialAs connects as one of the suite's own services.
func (i *identity) dialAs(name, target string) (*grpc.ClientConn, error) {
	pair, err := i.authority.Service(name)
	if err != nil {
		return nil, err
	}
	certificate, err := pair.TLS()
	if err != nil {
		return nil, err
	}
	return serve.Dial(target, serve.ClientTLS(i.authority.Pool(), certificate))
}

// dial connects as nobody: for who hands on the credentials of others.
func (i *identity) dial(target string) (*grpc.ClientConn, error) {
	return serve.Dial(target, serve.ClientTLS(i.authority.Pool()))
}
