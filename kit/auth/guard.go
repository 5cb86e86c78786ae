package auth

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/kind"
)

// Reasons of the faults that callers get from this package.
const (
	ReasonNoCredential = "CredentialRequired"
	ReasonForbidden    = "Forbidden"
)

// Guard stands before every method of a server.
type Guard struct {
	authenticator Authenticator
	authorizer    Authorizer
	rules         map[string]rule
}

// NewGuard makes a guard for all services that the binary knows. It reads
// their rules now: services linked into the binary are known by then.
func NewGuard(n Authenticator, z Authorizer) *Guard {
	return &Guard{authenticator: n, authorizer: z, rules: rules(protoregistry.GlobalFiles)}
}

// call is one call on its way through the guard: who it is, and what it needs.
type call struct {
	method string
	rule   rule
	user   User
}

// admit finds the caller of a method and checks what needs no request for it.
// The context that it returns carries the user.
func (g *Guard) admit(ctx context.Context, method string) (context.Context, call, error) {
	r, known := g.rules[method]
	if known && r.need == needNothing {
		return ctx, call{method: method, rule: r}, nil
	}
	u, err := g.identify(ctx)
	if err != nil {
		return ctx, call{}, err
	}
	switch {
	case !known:
		return ctx, call{}, fault.New(fault.Denied, ReasonForbidden, "user %q cannot call %s: no rule allows it", u.Name, method)
	case r.need == needInternal && !u.Internal:
		return ctx, call{}, fault.New(fault.Denied, ReasonForbidden,
			"user %q cannot call %s: it is for the suite's own services", u.Name, method)
	}
	return withAuthorizer(NewContext(ctx, u), g.authorizer), call{method: method, rule: r, user: u}, nil
}

// authorize checks the right to what the request asks for. The context that it
// returns carries the user on whose account the call is made.
func (g *Guard) authorize(ctx context.Context, c call, req any) (context.Context, kind.Target, error) {
	if c.rule.need != needRight {
		return ctx, kind.Target{}, nil
	}
	msg, ok := req.(proto.Message)
	if !ok {
		return ctx, kind.Target{}, fault.New(fault.Internal, "RequestType", "request of type %T can't be checked", req)
	}
	t, err := c.rule.target(msg)
	if err != nil {
		return ctx, kind.Target{}, err
	}
	if err := c.rule.complete(t); err != nil {
		return ctx, kind.Target{}, err
	}
	if ctx, err = actFor(ctx, c.user, flag(msg, "validate_only")); err != nil || c.user.Internal {
		return ctx, t, err
	}
	for _, a := range c.rule.wants(msg, t) {
		if err := Require(ctx, g.authorizer, c.user, a); err != nil {
			return ctx, kind.Target{}, err
		}
	}
	return ctx, t, nil
}

// Require returns nil if the user may do what the attributes say, and
// otherwise a fault of class Denied in the words of Kubernetes. It is for doors
// that are no gRPC methods; internal users may do everything.
func Require(ctx context.Context, z Authorizer, u User, a Attributes) error {
	if u.Internal {
		return nil
	}
	d, err := z.Authorize(ctx, u, a)
	if err != nil {
		return err
	}
	if d.Allowed {
		return nil
	}
	return fault.New(fault.Denied, ReasonForbidden, "%s", denial(u, a, d.Reason))
}

// denial says it as Kubernetes' API server does.
func denial(u User, a Attributes, reason string) string {
	var b strings.Builder
	resource, kind := a.Resource, a.Resource
	if a.Group != "" {
		kind += "." + a.Group
	}
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	if a.Name != "" {
		fmt.Fprintf(&b, "%s %q is forbidden: ", kind, a.Name)
	} else {
		fmt.Fprintf(&b, "%s is forbidden: ", kind)
	}
	fmt.Fprintf(&b, "User %q cannot %s resource %q in API group %q", u.Name, a.Verb, resource, a.Group)
	if a.Namespace != "" {
		fmt.Fprintf(&b, " in the namespace %q", a.Namespace)
	} else {
		b.WriteString(" at the cluster scope")
	}
	if reason != "" {
		b.WriteString(": " + reason)
	}
	return b.String()
}
