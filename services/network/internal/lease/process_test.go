package lease

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
)

// Variables that make this program a process that serves leases.
const (
	endpointVariable = "LEASE_TEST_ETCD"
	clockVariable    = "LEASE_TEST_CLOCK"
	cidrVariable     = "LEASE_TEST_CIDR"
)

// TestMain is also a process that serves leases, to be killed.
func TestMain(m *testing.M) {
	if os.Getenv(endpointVariable) == "" {
		os.Exit(m.Run())
	}
	if err := serveLeases(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// The calls that a process serves.
const (
	callPick    = "pick"
	callTake    = "take"
	callRelease = "release"
	callFind    = "find"
	callBatch   = "batch" // one address for each owner, all or none
)

type call struct {
	ID      int
	Verb    string
	Owners  []Owner
	Address string
}

// reply has addresses in the order of the call's owners. Reason is that of a
// refusal, Unknown says that nobody knows whether it was done.
type reply struct {
	ID        int
	Addresses []string
	Reason    string
	Unknown   bool
}

// serveLeases answers calls of the standard input, all at once, and lets leases
// expire.
func serveLeases(ctx context.Context) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{os.Getenv(endpointVariable)}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	store, err := resource.NewCollection[*networkv1.VirtualMachineIPAddressLease](
		client, prefix, kind.Must(&networkv1.VirtualMachineIPAddressLease{}), resource.Options{Finalizers: []string{"test/cleanup"}})
	if err != nil {
		return err
	}
	go func() { _ = store.Run(ctx) }()
	if err := store.WaitSynced(ctx); err != nil {
		return err
	}
	pool, err := parsePool(os.Getenv(cidrVariable))
	if err != nil {
		return err
	}
	book := newBook(store, pool, func() (Instant, error) { return readClock(os.Getenv(clockVariable)) })
	all, err := store.All("", nil)
	if err != nil {
		return err
	}
	for _, l := range all {
		book.Observe(l)
	}
	go keepExpiring(ctx, store, book)
	return answerCalls(ctx, store, book)
}

func answerCalls(ctx context.Context, store *leases, book *ipBook) error {
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c call
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return err
		}
		go func() {
			addresses, err := book.answer(ctx, store, c)
			answer := reply{ID: c.ID, Reason: fault.ReasonOf(err)}
			answer.Unknown = fault.Is(err, fault.Transient, fault.Internal)
			for _, at := range addresses {
				answer.Addresses = append(answer.Addresses, at.String())
			}
			mu.Lock()
			defer mu.Unlock()
			_ = out.Encode(answer) // the parent is gone, and so is this soon
		}()
	}
	return lines.Err()
}

func (b *Book[A, L]) answer(ctx context.Context, store *leases, c call) ([]A, error) {
	owner := c.Owners[0]
	var wanted A
	var err error
	if c.Address != "" {
		if wanted, err = b.space.Parse(c.Address); err != nil {
			return nil, err
		}
	}
	switch c.Verb {
	case callPick:
		wanted, err = b.Pick(ctx, owner)
	case callTake:
		err = b.Take(ctx, owner, wanted)
	case callRelease:
		err = b.Release(ctx, owner, wanted)
	case callFind:
		found, held, err := b.Find(owner)
		if !held {
			return nil, err
		}
		return []A{found}, err
	case callBatch:
		return b.draft(ctx, c.Owners)
	}
	return []A{wanted}, err
}

// draft gives each owner an address, in one transaction.
func (b *Book[A, L]) draft(ctx context.Context, owners []Owner) ([]A, error) {
	batch := new(resource.Batch)
	draft := b.Draft(batch)
	var all []A
	for _, owner := range owners {
		picked, err := draft.Pick(owner)
		if err != nil {
			return nil, err
		}
		all = append(all, picked)
	}
	if err := batch.Commit(ctx); err != nil {
		return nil, err
	}
	draft.Committed()
	return all, nil
}

// keepExpiring looks at leases of nobody as their loop does, without end. Owners
// are never gone.
func keepExpiring(ctx context.Context, store *leases, book *ipBook) {
	rules := &ipReconciler{Book: book, Now: time.Now, Claimant: func(_ context.Context, key resource.Key, _ bool) (Claimant, bool, error) {
		return Claimant{UID: key.Name + "-uid"}, true, nil
	}}
	for event, err := range store.Watch(ctx, resource.WatchOptions{}) {
		if err != nil {
			return
		}
		if event.Type == resource.Bookmark || event.Type == resource.Deleted {
			continue
		}
		if _, owned := ownerKey(event.Object); !owned {
			go expireOne(ctx, store, rules, resource.KeyOf(event.Object))
		}
	}
}

// expireOne looks at one lease until it is gone, or somebody's.
func expireOne(ctx context.Context, store *leases, rules *ipReconciler, key resource.Key) {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for range again.C {
		l, err := store.Get(key)
		if err != nil {
			return
		}
		if _, owned := ownerKey(l); owned {
			return
		}
		if result, err := rules.Reconcile(ctx, l); err == nil && result.Finalized {
			_, _ = store.RemoveFinalizer(ctx, key, "test/cleanup") // else at the next look
		}
	}
}

// readClock reads an Instant from a file.
func readClock(path string) (Instant, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Instant{}, err
	}
	now, valid := parseInstant(string(text))
	if !valid {
		return Instant{}, fmt.Errorf("%q is no instant", text)
	}
	return now, nil
}

// process is a running one, as its callers see it.
type process struct {
	command *exec.Cmd
	mu      sync.Mutex
	in      *json.Encoder
	waiting map[int]chan reply
	serial  int
	// dead is closed at its end.
	dead chan struct{}
}

func startProcess(t *testing.T, endpoint, clock, cidr string) *process {
	t.Helper()
	p := &process{command: exec.Command(os.Args[0]), waiting: map[int]chan reply{}, dead: make(chan struct{})}
	p.command.Env = append(os.Environ(), endpointVariable+"="+endpoint, clockVariable+"="+clock, cidrVariable+"="+cidr)
	p.command.Stderr = os.Stderr
	in, err := p.command.StdinPipe()
	out, outErr := p.command.StdoutPipe()
	if err := errors.Join(err, outErr, p.command.Start()); err != nil {
		t.Fatal(err)
	}
	p.in = json.NewEncoder(in)
	go func() {
		defer close(p.dead)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var r reply
			if json.Unmarshal(lines.Bytes(), &r) != nil {
				continue // it was killed in the middle of a line
			}
			p.mu.Lock()
			answered := p.waiting[r.ID]
			delete(p.waiting, r.ID)
			p.mu.Unlock()
			answered <- r
		}
		_ = p.command.Wait() // it was killed
	}()
	t.Cleanup(p.kill)
	return p
}

// kill ends the process at once, whatever it does. Idempotent.
func (p *process) kill() {
	_ = p.command.Process.Kill() // it may have ended
	<-p.dead
}

// ask waits for the answer to a call. One that the process takes with it is
// Unknown.
func (p *process) ask(c call) reply {
	answered := make(chan reply, 1)
	p.mu.Lock()
	p.serial++
	c.ID = p.serial
	p.waiting[c.ID] = answered
	err := p.in.Encode(c)
	p.mu.Unlock()
	if err != nil {
		return reply{Unknown: true}
	}
	select {
	case r := <-answered:
		return r
	case <-p.dead:
	}
	select {
	case r := <-answered: // the last thing that it did
		return r
	default:
		return reply{Unknown: true}
	}
}
