// Package kubernetes authenticates and authorizes by asking a Kubernetes API:
// TokenReview says who a token belongs to, SubjectAccessReview whether that
// user may. So RBAC on the custom resources decides at every door alike.
//
// Answers are remembered for a short time, because a call would otherwise cost
// two round trips; that time is also how long a revoked right lives on.
package kubernetes

import (
	"context"
	"crypto/rand"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/fault"
)

// How long answers are remembered, and how many of each sort.
const (
	AllowTTL     = 10 * time.Second
	DenyTTL      = 5 * time.Second
	CacheEntries = 4096
)

// requestTimeout bounds one question to the Kubernetes API, which must not
// hold the calls of users for longer.
const requestTimeout = 10 * time.Second

// Kubernetes is both an [auth.Authenticator] and an [auth.Authorizer]. It is
// safe for concurrent use.
type Kubernetes struct {
	client kubernetes.Interface
	// secret keys the digests of tokens, so that a memory dump of the cache
	// can't be tried against guesses elsewhere.
	secret    [32]byte
	users     *cache.LRUExpireCache
	decisions *cache.LRUExpireCache
}

// New returns the rights of the cluster behind the client. Its credential
// needs to create tokenreviews and subjectaccessreviews (ClusterRole
// system:auth-delegator). The clock decides when an answer is too old.
func New(client kubernetes.Interface, c clock.PassiveClock) *Kubernetes {
	k := &Kubernetes{
		client:    client,
		users:     cache.NewLRUExpireCacheWithClock(CacheEntries, c),
		decisions: cache.NewLRUExpireCacheWithClock(CacheEntries, c),
	}
	rand.Read(k.secret[:]) // Never fails: crypto/rand ends the program instead.
	return k
}

// Authenticate implements [auth.Authenticator] by TokenReview.
func (k *Kubernetes) Authenticate(ctx context.Context, token string) (auth.User, error) {
	key := k.digest(token)
	if known, ok := k.users.Get(key); ok {
		return known.(identity).answer()
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	review, err := k.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		return auth.User{}, unavailable(err, "a token")
	}
	id := identity{
		known: review.Status.Authenticated,
		user: auth.User{
			Name:   review.Status.User.Username,
			UID:    review.Status.User.UID,
			Groups: review.Status.User.Groups,
		},
	}
	k.users.Add(key, id, ttl(id.known))
	return id.answer()
}

// Authorize implements [auth.Authorizer] by SubjectAccessReview.
func (k *Kubernetes) Authorize(ctx context.Context, u auth.User, a auth.Attributes) (auth.Decision, error) {
	key := decisionKey(u, a)
	if known, ok := k.decisions.Get(key); ok {
		return known.(auth.Decision), nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	review, err := k.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User:   u.Name,
			UID:    u.UID,
			Groups: u.Groups,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb:        a.Verb,
				Group:       a.Group,
				Resource:    a.Resource,
				Subresource: a.Subresource,
				Namespace:   a.Namespace,
				Name:        a.Name,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return auth.Decision{}, unavailable(err, "a right")
	}
	d := auth.Decision{Allowed: review.Status.Allowed && !review.Status.Denied, Reason: review.Status.Reason}
	k.decisions.Add(key, d, ttl(d.Allowed))
	return d, nil
}

func ttl(allowed bool) time.Duration {
	if allowed {
		return AllowTTL
	}
	return DenyTTL
}

// unavailable is what callers get when the Kubernetes API does not answer. It
// is not remembered, so the next call asks again.
func unavailable(err error, what string) error {
	return fault.Wrap(err, fault.Transient, "KubernetesUnavailable", "the Kubernetes API could not judge %s", what)
}
