package kubernetes_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/auth/kubernetes"
	"orlop.dev/kit/fault"
)

// api plays the two reviews of a Kubernetes API, over real HTTP.
type api struct {
	down             atomic.Bool
	tokens, accesses atomic.Int32
	revoked          atomic.Bool

	mu   sync.Mutex
	last authorizationv1.SubjectAccessReviewSpec
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case a.down.Load():
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.Method == http.MethodPost && r.URL.Path == "/apis/authentication.k8s.io/v1/tokenreviews":
		a.reviewToken(w, r)
	case r.Method == http.MethodPost && r.URL.Path == "/apis/authorization.k8s.io/v1/subjectaccessreviews":
		a.reviewAccess(w, r)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (a *api) reviewToken(w http.ResponseWriter, r *http.Request) {
	a.tokens.Add(1)
	var review authenticationv1.TokenReview
	if json.NewDecoder(r.Body).Decode(&review) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if review.Spec.Token == "alice-token" {
		review.Status.Authenticated = true
		review.Status.User = authenticationv1.UserInfo{Username: "alice", UID: "42", Groups: []string{"dev"}}
	}
	answer(w, review)
}

func (a *api) reviewAccess(w http.ResponseWriter, r *http.Request) {
	a.accesses.Add(1)
	var review authorizationv1.SubjectAccessReview
	if json.NewDecoder(r.Body).Decode(&review) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	a.last = review.Spec
	a.mu.Unlock()
	review.Status.Allowed = !a.revoked.Load() && review.Spec.ResourceAttributes.Verb == "get" && slices.Contains(review.Spec.Groups, "dev")
	answer(w, review)
}

func answer(w http.ResponseWriter, review any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	if err := json.NewEncoder(w).Encode(review); err != nil {
		panic(err)
	}
}

func start(t *testing.T) (*api, *kubernetes.Kubernetes, *clocktesting.FakePassiveClock) {
	t.Helper()
	a := &api{}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	client, err := clientset.NewForConfig(&rest.Config{Host: s.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	clock := clocktesting.NewFakePassiveClock(time.Now())
	return a, kubernetes.New(client, clock), clock
}

var getDisk = auth.Attributes{Verb: "get", Group: "virtualization.deckhouse.io", Resource: "virtualdisks", Subresource: "sub", Namespace: "ns", Name: "d"}

func TestTokenBecomesTheUserOfItsReview(t *testing.T) {
	_, k, _ := start(t)
	u, err := k.Authenticate(t.Context(), "alice-token")
	if err != nil || u.Name != "alice" || u.UID != "42" || !slices.Equal(u.Groups, []string{"dev"}) || u.Internal {
		t.Fatalf("got %+v, %v", u, err)
	}
	if _, err := k.Authenticate(t.Context(), "other"); !fault.Is(err, fault.Unauthenticated) {
		t.Fatalf("got %v", err)
	}
}

func TestRightIsAskedForWithAllAttributes(t *testing.T) {
	a, k, _ := start(t)
	d, err := k.Authorize(t.Context(), auth.User{Name: "alice", UID: "42", Groups: []string{"dev"}}, getDisk)
	if err != nil || !d.Allowed {
		t.Fatalf("got %+v, %v", d, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	want := authorizationv1.ResourceAttributes{
		Verb: "get", Group: "virtualization.deckhouse.io", Resource: "virtualdisks", Subresource: "sub", Namespace: "ns", Name: "d",
	}
	if a.last.User != "alice" || a.last.UID != "42" || *a.last.ResourceAttributes != want {
		t.Fatalf("asked for %+v %+v", a.last, a.last.ResourceAttributes)
	}
}

func TestAnswersAreRememberedForTheirTimeOnly(t *testing.T) {
	a, k, clock := start(t)
	alice := auth.User{Name: "alice", Groups: []string{"dev"}}
	allowed := func(want bool) {
		t.Helper()
		d, err := k.Authorize(t.Context(), alice, getDisk)
		if err != nil || d.Allowed != want {
			t.Fatalf("got %+v, %v, want %v", d, err, want)
		}
	}
	allowed(true)
	a.revoked.Store(true)
	clock.SetTime(clock.Now().Add(kubernetes.AllowTTL - time.Second))
	allowed(true)
	clock.SetTime(clock.Now().Add(2 * time.Second))
	allowed(false)
	a.revoked.Store(false)
	clock.SetTime(clock.Now().Add(kubernetes.DenyTTL - time.Second))
	allowed(false)
	clock.SetTime(clock.Now().Add(2 * time.Second))
	allowed(true)
	if n := a.accesses.Load(); n != 3 {
		t.Fatalf("asked %d times, want 3", n)
	}
}

func TestARememberedRightIsNobodyElses(t *testing.T) {
	_, k, _ := start(t)
	if d, err := k.Authorize(t.Context(), auth.User{Name: "alice", Groups: []string{"dev"}}, getDisk); err != nil || !d.Allowed {
		t.Fatalf("got %+v, %v", d, err)
	}
	update := getDisk
	update.Verb = "update"
	for name, c := range map[string]struct {
		user auth.User
		a    auth.Attributes
	}{
		"another group": {auth.User{Name: "alice", Groups: []string{"ops"}}, getDisk},
		"another verb":  {auth.User{Name: "alice", Groups: []string{"dev"}}, update},
	} {
		if d, err := k.Authorize(t.Context(), c.user, c.a); err != nil || d.Allowed {
			t.Errorf("%s: got %+v, %v", name, d, err)
		}
	}
}

func TestTokensAreRememberedAndUsersNotShared(t *testing.T) {
	a, k, clock := start(t)
	u, err := k.Authenticate(t.Context(), "alice-token")
	if err != nil {
		t.Fatal(err)
	}
	u.Groups[0] = "changed by the caller"
	if u, err = k.Authenticate(t.Context(), "alice-token"); err != nil || u.Groups[0] != "dev" {
		t.Fatalf("got %+v, %v", u, err)
	}
	clock.SetTime(clock.Now().Add(kubernetes.AllowTTL + time.Second))
	if _, err = k.Authenticate(t.Context(), "alice-token"); err != nil {
		t.Fatal(err)
	}
	if n := a.tokens.Load(); n != 2 {
		t.Fatalf("asked %d times, want 2", n)
	}
}

func TestAnAPIThatIsDownIsTransientAndNotRemembered(t *testing.T) {
	a, k, _ := start(t)
	a.down.Store(true)
	if _, err := k.Authenticate(t.Context(), "alice-token"); !fault.Is(err, fault.Transient) {
		t.Fatalf("got %v", err)
	}
	if _, err := k.Authorize(t.Context(), auth.User{Name: "alice"}, getDisk); !fault.Is(err, fault.Transient) {
		t.Fatalf("got %v", err)
	}
	a.down.Store(false)
	if _, err := k.Authenticate(t.Context(), "alice-token"); err != nil {
		t.Fatal(err)
	}
}
