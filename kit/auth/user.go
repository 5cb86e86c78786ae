// Package auth decides who is calling and whether they may.
//
// It owns the interceptors that stand before every method, the rules that say
// which right a method needs (read from the descriptors, so no kind and no
// method is named here), and the ports through which a credential becomes a
// user and a right is asked for. It must not know any kind, nor where users
// and rights are kept: packages tokenfile and kubernetes do.
package auth

import "context"

// User is somebody with a proven identity.
type User struct {
	Name   string
	UID    string
	Groups []string
	// Internal marks one of the suite's own services, known by its certificate.
	Internal bool
}

type userKey struct{}

// NewContext returns a context that carries the user.
func NewContext(ctx context.Context, u User) context.Context {
	return context.WithValue(ctx, userKey{}, u)
}

// UserFrom returns the user on whose account the call is made. In a
// validate_only call by an internal user that acts for somebody else, it is
// that somebody. False where no interceptor has seen the call.
func UserFrom(ctx context.Context) (User, bool) {
	u, ok := ctx.Value(userKey{}).(User)
	return u, ok
}
