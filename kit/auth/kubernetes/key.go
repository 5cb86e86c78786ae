package kubernetes

import (
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"strconv"
	"strings"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/fault"
)

// identity is the remembered answer about a token.
type identity struct {
	known bool
	user  auth.User
}

func (i identity) answer() (auth.User, error) {
	if !i.known {
		return auth.User{}, fault.New(fault.Unauthenticated, "TokenUnknown", "the token is not known")
	}
	u := i.user
	// Handlers may keep the slice; the remembered one must not change.
	u.Groups = slices.Clone(u.Groups)
	return u, nil
}

func (k *Kubernetes) digest(token string) [sha256.Size]byte {
	mac := hmac.New(sha256.New, k.secret[:])
	mac.Write([]byte(token))
	return [sha256.Size]byte(mac.Sum(nil))
}

// decisionKey is unambiguous: each part is quoted.
func decisionKey(u auth.User, a auth.Attributes) string {
	var b strings.Builder
	for _, part := range []string{u.Name, u.UID, a.Verb, a.Group, a.Resource, a.Subresource, a.Namespace, a.Name} {
		b.WriteString(strconv.Quote(part))
	}
	for _, g := range u.Groups {
		b.WriteString(strconv.Quote(g))
	}
	return b.String()
}
