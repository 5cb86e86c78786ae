// Package authtest makes calls as a user with some rights, for tests of what
// admission asks of its caller.
package authtest

import (
	"context"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/auth/tokenfile"
)

// user has rights, as "VERB RESOURCE[/SUBRESOURCE] NAMESPACE NAME". What the method itself asks
// for, before admission, is allowed.
type user struct {
	rights   []string
	admitted bool
}

func (u *user) Authorize(_ context.Context, _ auth.User, a auth.Attributes) (auth.Decision, error) {
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	right := strings.Join([]string{a.Verb, resource, a.Namespace, a.Name}, " ")
	return auth.Decision{Allowed: !u.admitted || slices.Contains(u.rights, right)}, nil
}

// As calls admit as a method's handler is called behind a real guard, for a user
// with no rights but these: "VERB RESOURCE[/SUBRESOURCE] NAMESPACE NAME". method is a full name,
// /package.Service/Method, and request what it takes.
func As(t *testing.T, rights []string, method string, request proto.Message, admit func(context.Context) error) error {
	t.Helper()
	users, err := tokenfile.Parse(strings.NewReader("a-token,alice,1\n"))
	if err != nil {
		t.Fatal(err)
	}
	alice := &user{rights: rights}
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer a-token"))
	info := &grpc.UnaryServerInfo{FullMethod: method}
	_, err = auth.NewGuard(users, alice).Unary()(ctx, request, info, func(ctx context.Context, _ any) (any, error) {
		alice.admitted = true
		return nil, admit(ctx)
	})
	return err
}
