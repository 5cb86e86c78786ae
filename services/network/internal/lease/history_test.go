package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/network/internal/address"
)

// ledger is what those who use addresses know: it is told after an address was
// got and before it is given back.
type ledger struct {
	mu     sync.Mutex
	users  map[netip.Addr]string
	grants int
}

func (l *ledger) begin(at netip.Addr, user string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, used := l.users[at]; used {
		return fmt.Errorf("%s was given to %s while %s uses it", at, user, other)
	}
	l.users[at] = user
	l.grants++
	return nil
}

func (l *ledger) end(at netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.users, at)
}

// change is one entry of the store's history: whose a lease was from then on.
type change struct{ lease, owner string }

// checkHistory returns an error if an address went from one owner to another
// without having been given back.
func checkHistory(changes []change) error {
	owners := map[string]string{}
	for _, c := range changes {
		if before := owners[c.lease]; before != "" && c.owner != "" && c.owner != before {
			return fmt.Errorf("%s went from %s to %s", c.lease, before, c.owner)
		}
		owners[c.lease] = c.owner
	}
	return nil
}

func ownerKey(l *networkv1.VirtualMachineIPAddressLease) (resource.Key, bool) {
	ref := IPForm().Ref(l)
	return resource.Key{Namespace: ref.Namespace, Name: ref.Name}, ref.Name != ""
}

// history reads from etcd all that ever happened to leases.
func history(t *testing.T, client *clientv3.Client) []change {
	t.Helper()
	last, err := client.Get(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), prefix+"/end", ""); err != nil {
		t.Fatal(err)
	}
	var changes []change
	for response := range client.Watch(t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithRev(1)) {
		if err := response.Err(); err != nil {
			t.Fatal(err)
		}
		for _, event := range response.Events {
			if event.Kv.ModRevision > last.Header.Revision {
				return changes
			}
			name := string(event.Kv.Key)[strings.LastIndex(string(event.Kv.Key), "/")+1:]
			if !strings.HasPrefix(name, "ip-") {
				continue
			}
			var l networkv1.VirtualMachineIPAddressLease
			if err := proto.Unmarshal(event.Kv.Value, &l); err != nil {
				t.Fatal(err)
			}
			key, owned := ownerKey(&l)
			if !owned {
				key = resource.Key{}
			}
			changes = append(changes, change{lease: name, owner: strings.Trim(key.String(), "/")})
		}
	}
	t.Fatal("the history ended early")
	return nil
}

func TestHistoryCheckSeesAnAddressThatIsGivenTwice(t *testing.T) {
	good := []change{{"ip-1", "a"}, {"ip-2", "b"}, {"ip-1", "a"}, {"ip-1", ""}, {"ip-1", "b"}}
	if err := checkHistory(good); err != nil {
		t.Error(err)
	}
	if checkHistory(append(good, change{"ip-2", "a"})) == nil {
		t.Error("nothing was seen")
	}
	var l ledger
	l.users = map[netip.Addr]string{}
	if errors.Join(l.begin(at, "a"), l.begin(at, "b")) == nil {
		t.Error("the ledger saw nothing")
	}
}

// TestNoAddressIsEverGivenTwice has many goroutines over several replicas take
// and release addresses of a pool that is too small for them, by chance and by
// name, while leases expire and replicas die in the middle of a call. Then what
// they saw and what etcd saw is checked.
func TestNoAddressIsEverGivenTwice(t *testing.T) {
	const users, rounds = 12, 60
	client := etcdtest.Start(t)
	uptime := newClock()
	addresses := pool(t, "10.66.10.0/28")
	books := []*ipBook{
		newBook(startLeases(t, client), addresses, uptime.Now),
		newBook(startLeases(t, client), addresses, uptime.Now),
	}
	seen := &ledger{users: map[netip.Addr]string{}}
	var group errgroup.Group
	for i := range users {
		u := user{t: t, book: books[i%2], ledger: seen, next: func() (*ipBook, error) { return successor(t, client, addresses, uptime) }, random: rand.New(rand.NewPCG(1, uint64(i))),
			owner: owner([]string{"default", "elsewhere"}[i%3%2], fmt.Sprint("user", i))}
		group.Go(func() error { return u.live(rounds) })
	}
	stop := make(chan struct{})
	var expiry errgroup.Group
	expiry.Go(func() error { return expire(t, books[0], uptime, stop) })
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	close(stop)
	if err := expiry.Wait(); err != nil {
		t.Error(err)
	}
	changes := history(t, client)
	if err := checkHistory(changes); err != nil {
		t.Error(err)
	}
	if len(changes) < 2*seen.grants || seen.grants < users {
		t.Errorf("%d changes for %d grants: the history is not of what was done", len(changes), seen.grants)
	}
	t.Logf("%d grants, %d changes of leases", seen.grants, len(changes))
}

// crashEvery is how many rounds a replica lives.
const crashEvery = 20

// user takes and releases addresses.
type user struct {
	t      *testing.T
	book   *ipBook
	ledger *ledger
	owner  Owner
	random *rand.Rand
	// next is a replica that knows only what is in etcd.
	next func() (*ipBook, error)
}

// successor is the book of a process that starts now.
func successor(t *testing.T, client *clientv3.Client, addresses *address.Pool, uptime *clock) (*ipBook, error) {
	store := startLeases(t, client)
	book := newBook(store, addresses, uptime.Now)
	all, err := store.All("", nil)
	for _, l := range all {
		book.Observe(l)
	}
	return book, err
}

// crash has the replica die while it gives an address: whether it did, the next
// one finds out.
func (u *user) crash() (netip.Addr, error) {
	ctx, kill := context.WithCancel(u.t.Context())
	defer kill()
	defer time.AfterFunc(time.Duration(u.random.IntN(2000))*time.Microsecond, kill).Stop()
	_, _ = u.book.Pick(ctx, u.owner) // the answer is lost with the process
	var err error
	if u.book, err = u.next(); err != nil {
		return netip.Addr{}, err
	}
	found, taken, err := u.book.Find(u.owner)
	if err == nil && !taken {
		err = fault.New(fault.NotReady, string(NotReady), "nothing was taken")
	}
	return found, err
}

// live uses each address until the next one is there, so that others and the
// expiry come in between.
func (u *user) live(rounds int) error {
	var last netip.Addr
	for round := range rounds {
		get := u.get
		if round%crashEvery == crashEvery-1 {
			if err := u.giveBack(last); err != nil {
				return err
			}
			get, last = u.crash, netip.Addr{}
		}
		next, err := get()
		if err == nil && next == last {
			continue // asked by name for what it has
		}
		if err == nil {
			err = u.ledger.begin(next, u.owner.Name)
		} else if fault.Is(err, fault.Exhausted, fault.NotReady, fault.Stale) {
			next, err = netip.Addr{}, nil
		}
		if err == nil {
			err = u.giveBack(last)
		}
		if err != nil {
			return err
		}
		last = next
	}
	return u.giveBack(last)
}

func (u *user) giveBack(last netip.Addr) error {
	if !last.IsValid() {
		return nil
	}
	held, err := u.book.Holds(u.owner, last)
	if err != nil {
		return err
	}
	if !held {
		return fmt.Errorf("%s lost %s", u.owner.Name, last)
	}
	u.ledger.end(last)
	return u.book.Release(u.t.Context(), u.owner, last)
}

func (u *user) get() (netip.Addr, error) {
	if u.random.IntN(2) == 0 {
		return u.book.Pick(u.t.Context(), u.owner)
	}
	wanted := netip.AddrFrom4([4]byte{10, 66, 10, byte(1 + u.random.IntN(14))})
	return wanted, u.book.Take(u.t.Context(), u.owner, wanted)
}

// expire lets time pass and deletes leases, as their loop does.
func expire(t *testing.T, book *ipBook, uptime *clock, stop chan struct{}) error {
	store := book.store.(*leases)
	rules := &ipReconciler{Book: book, Now: time.Now, Claimant: func(context.Context, resource.Key, bool) (Claimant, bool, error) {
		return Claimant{}, true, nil
	}}
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		uptime.move(Retention)
		all, err := store.All("", nil)
		if err != nil {
			return err
		}
		for _, l := range all {
			if _, owned := ownerKey(l); owned {
				continue
			}
			result, err := rules.Reconcile(t.Context(), l)
			if err != nil {
				return err
			}
			if result.Finalized {
				if _, err := store.RemoveFinalizer(t.Context(), resource.KeyOf(l), "test/cleanup"); err != nil {
					return err
				}
			}
		}
	}
}
