package auth

import (
	"context"
	"net/url"

	"google.golang.org/grpc/metadata"

	"orlop.dev/kit/fault"
)

// Metadata by which an internal user says for whom it asks. The values are
// escaped as in a URL's query, because metadata is ASCII and names are not.
const (
	behalfName   = "orlop-on-behalf-of"
	behalfUID    = "orlop-on-behalf-of-uid"
	behalfGroups = "orlop-on-behalf-of-group"
)

// OnBehalfOf returns a context for a validate_only call that an internal user
// makes for somebody else, so that admission knows who really asks. Servers
// refuse it from others and in calls that change something.
func OnBehalfOf(ctx context.Context, u User) context.Context {
	pairs := []string{behalfName, url.QueryEscape(u.Name)}
	if u.UID != "" {
		pairs = append(pairs, behalfUID, url.QueryEscape(u.UID))
	}
	for _, g := range u.Groups {
		pairs = append(pairs, behalfGroups, url.QueryEscape(g))
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

// actFor puts the user in whose name an internal caller asks into the context.
// People can't ask in another's name.
func actFor(ctx context.Context, caller User, validateOnly bool) (context.Context, error) {
	u, given, err := behalf(ctx)
	switch {
	case err != nil || !given:
		return ctx, err
	case !caller.Internal:
		return ctx, fault.New(fault.Denied, ReasonForbidden, "user %q cannot act for another user", caller.Name)
	case !validateOnly:
		return ctx, fault.New(fault.Denied, ReasonForbidden,
			"user %q cannot act for %q in a call that changes something", caller.Name, u.Name)
	}
	return NewContext(ctx, u), nil
}

func behalf(ctx context.Context) (u User, given bool, err error) {
	names, err := unescape(metadata.ValueFromIncomingContext(ctx, behalfName))
	if err != nil || len(names) == 0 {
		return User{}, false, err
	}
	uids, err := unescape(metadata.ValueFromIncomingContext(ctx, behalfUID))
	if err != nil {
		return User{}, false, err
	}
	groups, err := unescape(metadata.ValueFromIncomingContext(ctx, behalfGroups))
	if err != nil {
		return User{}, false, err
	}
	if len(names) > 1 || len(uids) > 1 || names[0] == "" {
		return User{}, false, fault.New(fault.Invalid, "OnBehalfOf", "exactly one user can be acted for")
	}
	u = User{Name: names[0], Groups: groups}
	if len(uids) == 1 {
		u.UID = uids[0]
	}
	return u, true, nil
}

func unescape(values []string) ([]string, error) {
	plain := make([]string, 0, len(values))
	for _, v := range values {
		s, err := url.QueryUnescape(v)
		if err != nil {
			return nil, fault.Wrap(err, fault.Invalid, "OnBehalfOf", "metadata %s is not escaped as a URL's query", behalfName)
		}
		plain = append(plain, s)
	}
	return plain, nil
}
