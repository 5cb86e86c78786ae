package tokenfile

import (
	"context"
	"slices"

	"orlop.dev/kit/auth"
)

// Rights authorizes by the groups of the token file alone.
type Rights struct{}

// Authorize implements [auth.Authorizer].
func (Rights) Authorize(_ context.Context, u auth.User, a auth.Attributes) (auth.Decision, error) {
	if slices.Contains(u.Groups, Masters) {
		return auth.Decision{Allowed: true, Reason: "member of " + Masters}, nil
	}
	// A subresource such as a console does more than show.
	reading := a.Subresource == "" && (a.Verb == "get" || a.Verb == "list" || a.Verb == "watch")
	if reading && slices.Contains(u.Groups, Viewers) {
		return auth.Decision{Allowed: true, Reason: "member of " + Viewers}, nil
	}
	return auth.Decision{}, nil
}
