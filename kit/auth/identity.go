package auth

import (
	"context"
	"crypto/tls"
	"strings"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"orlop.dev/kit/fault"
)

// InternalPrefix begins the common name of the certificates by which the
// suite's own services are known.
const InternalPrefix = "system:orlop:"

// identify finds the caller. A bearer token wins over a certificate, so that a
// service that passes a user's token on never lends it its own rights.
func (g *Guard) identify(ctx context.Context) (User, error) {
	token, given, err := bearer(ctx)
	switch {
	case err != nil:
		return User{}, err
	case given && g.authenticator == nil:
		return User{}, fault.New(fault.Unauthenticated, ReasonNoCredential, "this server knows no tokens")
	case given:
		u, err := g.authenticator.Authenticate(ctx, token)
		// Only a certificate makes an internal user, whatever a token says.
		u.Internal = false
		return u, err
	}
	if u, ok := fromCertificate(ctx); ok {
		return u, nil
	}
	return User{}, fault.New(fault.Unauthenticated, ReasonNoCredential, "a credential is required")
}

// bearer reads the token of RFC 6750's Authorization header.
func bearer(ctx context.Context) (token string, given bool, err error) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	switch len(values) {
	case 0:
		return "", false, nil
	case 1:
	default:
		return "", true, fault.New(fault.Unauthenticated, ReasonNoCredential, "more than one credential was given")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "bearer") || token == "" {
		return "", true, fault.New(fault.Unauthenticated, ReasonNoCredential, "the credential is not a bearer token")
	}
	return token, true, nil
}

// fromCertificate knows a service by a client certificate that the TLS
// handshake has verified against the server's client authorities. Other common
// names are no identity here: people have tokens.
func fromCertificate(ctx context.Context) (User, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return User{}, false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return User{}, false
	}
	return internalUser(info.State)
}

func internalUser(state tls.ConnectionState) (User, bool) {
	if len(state.VerifiedChains) == 0 || len(state.VerifiedChains[0]) == 0 {
		return User{}, false
	}
	name := state.VerifiedChains[0][0].Subject.CommonName
	if !strings.HasPrefix(name, InternalPrefix) || name == InternalPrefix {
		return User{}, false
	}
	return User{Name: name, Groups: []string{"system:orlop"}, Internal: true}, true
}
