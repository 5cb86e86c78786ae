package lease

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/services/network/internal/address"
)

const prefix = "/test"

// clock is an uptime that tests move.
type clock struct {
	mu  sync.Mutex
	now Instant
}

func newClock() *clock { return &clock{now: Instant{Boot: "first", Since: time.Hour}} }

func (c *clock) Now() (Instant, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now, nil
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.Since += d
}

func (c *clock) boot(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = Instant{Boot: name}
}

type (
	leases       = resource.Collection[*networkv1.VirtualMachineIPAddressLease]
	ipBook       = Book[netip.Addr, *networkv1.VirtualMachineIPAddressLease]
	ipReconciler = Reconciler[netip.Addr, *networkv1.VirtualMachineIPAddressLease]
)

func newBook(store *leases, pool *address.Pool, now func() (Instant, error)) *ipBook {
	return NewBook(store, IPs(pool), IPForm(), now)
}

func ipKey(at netip.Addr) resource.Key { return resource.Key{Name: address.LeaseName(at)} }

// startLeases runs a collection, as one replica of the service does.
func startLeases(t testing.TB, client *clientv3.Client) *leases {
	t.Helper()
	c, err := resource.NewCollection[*networkv1.VirtualMachineIPAddressLease](
		client, prefix, kind.Must(&networkv1.VirtualMachineIPAddressLease{}), resource.Options{Finalizers: []string{"test/cleanup"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if err := c.WaitSynced(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func parsePool(cidr string) (*address.Pool, error) { return address.ParsePool([]string{cidr}, nil) }

func pool(t testing.TB, cidr string) *address.Pool {
	t.Helper()
	p, err := parsePool(cidr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// scene is one book, and the reconciler of its leases.
type scene struct {
	t     *testing.T
	store *leases
	book  *ipBook
	clock *clock
	rules *ipReconciler
	// claimants are the VirtualMachineIPAddresses that are there.
	claimants map[resource.Key]Claimant
}

func newScene(t *testing.T, cidr string) *scene {
	t.Helper()
	s := &scene{t: t, store: startLeases(t, etcdtest.Start(t)), clock: newClock(), claimants: map[resource.Key]Claimant{}}
	s.book = newBook(s.store, pool(t, cidr), s.clock.Now)
	s.rules = &ipReconciler{Book: s.book, Now: time.Now, Claimant: func(_ context.Context, key resource.Key, _ bool) (Claimant, bool, error) {
		c, found := s.claimants[key]
		return c, found, nil
	}}
	return s
}

// look reconciles a lease as the loop does, and says when it would again.
func (s *scene) look(at netip.Addr) time.Duration {
	s.t.Helper()
	l, err := s.store.Get(ipKey(at))
	if fault.Is(err, fault.NotFound) {
		return 0
	}
	if err != nil {
		s.t.Fatal(err)
	}
	result, err := s.rules.Reconcile(s.t.Context(), l)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.store.UpdateStatus(s.t.Context(), ipKey(at), "", result.Status); err != nil && !fault.Is(err, fault.NotFound) {
		s.t.Fatal(err)
	}
	if result.Finalized {
		if _, err := s.store.RemoveFinalizer(s.t.Context(), ipKey(at), "test/cleanup"); err != nil {
			s.t.Fatal(err)
		}
	}
	return result.After
}

// lookTwice reconciles as often as a deletion takes.
func (s *scene) lookTwice(at netip.Addr) { s.look(at); s.look(at) }

func (s *scene) gone(at netip.Addr) bool {
	s.t.Helper()
	_, err := s.store.Get(ipKey(at))
	if err != nil && !fault.Is(err, fault.NotFound) {
		s.t.Fatal(err)
	}
	return err != nil
}

func (s *scene) take(owner Owner, at netip.Addr) {
	s.t.Helper()
	if err := s.book.Take(s.t.Context(), owner, at); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) release(owner Owner, at netip.Addr) {
	s.t.Helper()
	if err := s.book.Release(s.t.Context(), owner, at); err != nil {
		s.t.Fatal(err)
	}
}

func wantReason(t *testing.T, err error, reason Reason) {
	t.Helper()
	if fault.ReasonOf(err) != IPForm().Reason(reason) {
		t.Errorf("got %v, want reason %q", err, reason)
	}
}

func owner(namespace, name string) Owner {
	return Owner{Namespace: namespace, Name: name, UID: name + "-uid"}
}

var at = netip.MustParseAddr("10.66.10.14")

func TestTakeIsIdempotentAndRefusesOthers(t *testing.T) {
	s := newScene(t, "10.66.10.0/24")
	web := owner("default", "web")
	s.take(web, at)
	s.take(web, at)
	ctx := t.Context()
	wantReason(t, s.book.Take(ctx, owner("default", "other"), at), AlreadyExists)
	wantReason(t, s.book.Take(ctx, Owner{Namespace: "default", Name: "web", UID: "another"}, at), AlreadyExists)
	wantReason(t, s.book.Take(ctx, web, netip.MustParseAddr("10.66.10.0")), OutOfRange)
	wantReason(t, s.book.Take(ctx, web, netip.MustParseAddr("10.66.10.255")), OutOfRange)
	wantReason(t, s.book.Take(ctx, web, netip.MustParseAddr("10.66.20.77")), OutOfRange)
	if held, err := s.book.Holds(web, at); err != nil || !held {
		t.Errorf("held %v, %v", held, err)
	}
}

func TestReleasedAddressIsKeptForItsNamespace(t *testing.T) {
	s := newScene(t, "10.66.10.0/24")
	web, heir, stranger := owner("default", "web"), owner("default", "heir"), owner("elsewhere", "web")
	s.take(web, at)
	s.release(web, at)
	s.clock.move(Retention - time.Second)
	s.look(at)
	wantReason(t, s.book.Take(t.Context(), stranger, at), NotReady)
	l, err := s.store.Get(ipKey(at))
	if err != nil {
		t.Fatal(err)
	}
	ref := l.GetSpec().GetVirtualMachineIpAddressRef()
	if ref.GetName() != "" || ref.Name == nil || ref.GetNamespace() != "default" || l.GetStatus().GetPhase() != networkv1.LeasePhase_Released {
		t.Errorf("released as %v", l)
	}
	s.take(heir, at)
	s.release(web, at) // a late repetition takes nothing from the heir
	if held, err := s.book.Holds(heir, at); err != nil || !held {
		t.Errorf("the heir holds %v, %v", held, err)
	}
}

func TestReleasedAddressIsFreeAfterRetentionAndNotBefore(t *testing.T) {
	s := newScene(t, "10.66.10.0/24")
	web := owner("default", "web")
	s.take(web, at)
	s.release(web, at)
	s.clock.move(Retention - time.Nanosecond)
	if wait := s.look(at); wait != time.Nanosecond || s.gone(at) {
		t.Fatalf("a nanosecond early: gone %v, looked at again after %s", s.gone(at), wait)
	}
	s.clock.move(time.Nanosecond)
	s.lookTwice(at)
	if !s.gone(at) {
		t.Fatal("still there")
	}
	s.take(owner("elsewhere", "web"), at)
}

func TestLeaseAtItsEndIsNotTakenAgain(t *testing.T) {
	s := newScene(t, "10.66.10.0/24")
	web := owner("default", "web")
	s.take(web, at)
	s.release(web, at)
	s.clock.move(Retention)
	s.look(at) // is being deleted, and will be gone at the next look
	wantReason(t, s.book.Take(t.Context(), web, at), NotReady)
	s.look(at)
	s.take(web, at)
}

func TestBootOfTheMachineLengthensRetentionOnly(t *testing.T) {
	s := newScene(t, "10.66.10.0/24")
	web := owner("default", "web")
	s.take(web, at)
	s.release(web, at)
	s.clock.boot("second")
	s.clock.move(100 * Retention) // nobody knows how much of it was after the release
	if wait := s.look(at); wait != Retention {
		t.Errorf("looked at again after %s", wait)
	}
	s.clock.move(Retention - 1)
	s.lookTwice(at)
	if s.gone(at) {
		t.Fatal("gone too early")
	}
	s.clock.move(1)
	s.lookTwice(at)
	if !s.gone(at) {
		t.Error("still there")
	}
}

func TestLeaseThatIsTakenAgainDoesNotExpire(t *testing.T) {
	s := newScene(t, "10.66.10.0/24")
	web := owner("default", "web")
	s.claimants[web.key()] = Claimant{UID: web.UID, Address: at.String()}
	s.take(web, at)
	s.release(web, at)
	old, err := s.store.Get(ipKey(at))
	if err != nil {
		t.Fatal(err)
	}
	s.clock.move(2 * Retention)
	s.take(web, at)
	if _, err := s.rules.Reconcile(t.Context(), old); err != nil { // a look at what was before
		t.Fatal(err)
	}
	s.lookTwice(at)
	l, err := s.store.Get(ipKey(at))
	if err != nil || resource.Terminating(l) || l.GetStatus().GetPhase() != networkv1.LeasePhase_Bound {
		t.Errorf("%v, %v", l, err)
	}
}

func TestLeaseOfNobodyIsReleased(t *testing.T) {
	web := owner("default", "web")
	tests := map[string]struct {
		claimant *Claimant
		want     networkv1.LeasePhase_Value
	}{
		"its owner is gone":           {nil, networkv1.LeasePhase_Released},
		"its owner is another object": {&Claimant{UID: "another"}, networkv1.LeasePhase_Released},
		"its owner has another one":   {&Claimant{UID: web.UID, Address: "10.66.10.15"}, networkv1.LeasePhase_Released},
		"its owner says nothing yet":  {&Claimant{UID: web.UID}, networkv1.LeasePhase_Bound},
		"its owner says so":           {&Claimant{UID: web.UID, Address: "10.66.10.14"}, networkv1.LeasePhase_Bound},
	}
	s := newScene(t, "10.66.10.0/24")
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s.take(web, at)
			if test.claimant != nil {
				s.claimants[web.key()] = *test.claimant
			}
			s.lookTwice(at)
			l, err := s.store.Get(ipKey(at))
			if err != nil {
				t.Fatal(err)
			}
			if l.GetStatus().GetPhase() != test.want {
				t.Errorf("%s, want %s", l.GetStatus().GetPhase(), test.want)
			}
			delete(s.claimants, web.key())
			s.clock.move(2 * Retention)
			s.lookTwice(at) // released
			s.clock.move(2 * Retention)
			s.lookTwice(at)
			if !s.gone(at) {
				t.Fatal("not free for the next case")
			}
		})
	}
}

func TestPickGivesEachAddressOnceAndThenSaysThatThereIsNone(t *testing.T) {
	s := newScene(t, "10.66.10.0/29")
	seen := map[netip.Addr]bool{}
	for i := range 6 {
		picked, err := s.book.Pick(t.Context(), owner("default", string(rune('a'+i))))
		if err != nil {
			t.Fatal(err)
		}
		seen[picked] = true
	}
	if len(seen) != 6 || seen[netip.MustParseAddr("10.66.10.0")] || seen[netip.MustParseAddr("10.66.10.7")] {
		t.Errorf("picked %v", seen)
	}
	_, err := s.book.Pick(t.Context(), owner("default", "late"))
	wantReason(t, err, Exhausted)
	if !fault.Is(err, fault.Exhausted) {
		t.Errorf("class %s", fault.ClassOf(err))
	}
}

func TestNextProcessFindsTheLeaseOfAnOwnerThatWasNotTold(t *testing.T) {
	s := newScene(t, "10.66.10.0/24")
	web := owner("default", "web")
	picked, err := s.book.Pick(t.Context(), web)
	if err != nil {
		t.Fatal(err)
	}
	next := NewBook(s.store, s.book.space, IPForm(), s.clock.Now)
	l, err := s.store.Get(ipKey(picked))
	if err != nil {
		t.Fatal(err)
	}
	next.Observe(l)
	if found, held, err := next.Find(web); err != nil || !held || found != picked {
		t.Errorf("found %s, %v, %v; want %s", found, held, err, picked)
	}
	if _, held, err := next.Find(owner("default", "other")); err != nil || held {
		t.Errorf("found one of nobody, %v", err)
	}
}

func refTo(owner Owner) *networkv1.VirtualMachineIPAddressRef {
	return IPForm().New(owner.ref()).GetSpec().GetVirtualMachineIpAddressRef()
}

func TestAdmission(t *testing.T) {
	s := newScene(t, "10.66.10.0/24")
	named := func(name string, ref *networkv1.VirtualMachineIPAddressRef) *networkv1.VirtualMachineIPAddressLease {
		return &networkv1.VirtualMachineIPAddressLease{
			Metadata: &metav1.ObjectMeta{Name: name},
			Spec:     &networkv1.VirtualMachineIPAddressLeaseSpec{VirtualMachineIpAddressRef: ref},
		}
	}
	ref := refTo(owner("default", "web"))
	tests := map[string]struct {
		old, new *networkv1.VirtualMachineIPAddressLease
		field    string
	}{
		"restored":            {nil, named("ip-10-66-10-14", ref), ""},
		"no address":          {nil, named("web", ref), "metadata.name"},
		"another spelling":    {nil, named("ip-10-66-10-014", ref), "metadata.name"},
		"outside of the pool": {nil, named("ip-10-66-20-14", ref), "metadata.name"},
		"of nobody":           {nil, named("ip-10-66-10-14", nil), "spec.virtualMachineIPAddressRef"},
		"given to another":    {named("ip-10-66-10-14", ref), named("ip-10-66-10-14", refTo(owner("default", "b"))), "spec"},
		"deleted":             {named("ip-10-66-10-14", ref), nil, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := s.book.Admit(t.Context(), test.old, test.new)
			if test.field == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if f := fault.From(err); f == nil || f.Class != fault.Invalid || f.Fields[0].Path != test.field {
				t.Errorf("got %v, want a refusal of %s", err, test.field)
			}
		})
	}
}
