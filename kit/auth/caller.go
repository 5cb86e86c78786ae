package auth

import "context"

type authorizerKey struct{}

func withAuthorizer(ctx context.Context, z Authorizer) context.Context {
	return context.WithValue(ctx, authorizerKey{}, z)
}

// RequireOfCaller is Require for the user on whose account the call is made (see
// UserFrom). It is for admission: an object may name others that its author has
// to have a right to. Calls that no guard has seen are a process's own, and may
// everything.
func RequireOfCaller(ctx context.Context, a Attributes) error {
	u, ok := UserFrom(ctx)
	if !ok {
		return nil
	}
	z, _ := ctx.Value(authorizerKey{}).(Authorizer)
	return Require(ctx, z, u, a)
}
