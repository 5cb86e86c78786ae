package lease

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	clientv3 "go.etcd.io/etcd/client/v3"

	"orlop.dev/kit/resource/etcdtest"
)

// killCIDR has 6 addresses: fewer than are wanted.
const killCIDR = "10.66.10.0/29"

// TestHistoriesWithKillsAreOfOneOwnerAtATime has many callers take, pick, give
// back and take again addresses through processes that are killed in the middle,
// while hours pass and clocks jump. A model then looks for an order of all that
// was done that explains what was answered (porcupine): no address had two owners,
// and none went to another namespace before its retention was over.
func TestHistoriesWithKillsAreOfOneOwnerAtATime(t *testing.T) {
	for name, replicas := range map[string]int{"one process": 1, "two processes": 2} {
		t.Run(name, func(t *testing.T) {
			r := newRehearsal(t, replicas)
			var group sync.WaitGroup
			for i := range 8 {
				group.Go(func() { r.live(i, 150) })
			}
			group.Wait()
			r.settle()
			rules := model()
			for _, one := range rules.Partition(r.history) {
				if result := porcupine.CheckOperationsTimeout(rules, one, time.Minute); result != porcupine.Ok {
					t.Errorf("%s:\n%s", result, transcript(rules, one))
				}
			}
			if r.grants == 0 || r.kills.Load() == 0 || r.lost == 0 {
				t.Errorf("%d grants, %d kills, %d lost answers: nothing was rehearsed", r.grants, r.kills.Load(), r.lost)
			}
			t.Logf("%d deeds, %d grants, %d kills, %d lost answers, %s passed",
				len(r.history), r.grants, r.kills.Load(), r.lost, time.Duration(r.passed.Load()))
		})
	}
}

// transcript is what was done with an address, for people.
func transcript(rules porcupine.Model, history []porcupine.Operation) string {
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var lines []string
	for _, o := range history {
		lines = append(lines, fmt.Sprintf("%d-%d %s", o.Call, o.Return, rules.DescribeOperation(o.Input, o.Output)))
	}
	return strings.Join(lines, "\n")
}

// rehearsal is processes, what was asked of them, and the time.
type rehearsal struct {
	t        *testing.T
	client   *clientv3.Client
	clock    string
	replicas []atomic.Pointer[process]
	kills    atomic.Int64
	done     atomic.Int64

	// passed is what the clock shows at least, ahead what it shows at most.
	passed, ahead atomic.Int64
	mu            sync.Mutex
	now           Instant
	random        *rand.Rand

	record       sync.Mutex
	history      []porcupine.Operation
	lost, grants int
	// dark are picks of which nobody knows what they picked; batches are the owners
	// of each.
	dark    []porcupine.Operation
	batches [][]Owner
}

func newRehearsal(t *testing.T, replicas int) *rehearsal {
	t.Helper()
	r := &rehearsal{
		t: t, client: etcdtest.Start(t), clock: filepath.Join(t.TempDir(), "clock"), replicas: make([]atomic.Pointer[process], replicas),
		now: Instant{Boot: "boot0", Since: time.Hour}, random: rand.New(rand.NewPCG(7, uint64(replicas))),
	}
	r.pass()
	for i := range r.replicas {
		r.replicas[i].Store(r.start())
	}
	return r
}

func (r *rehearsal) start() *process {
	return startProcess(r.t, r.client.Endpoints()[0], r.clock, killCIDR)
}

// pass lets time pass. The clock may also jump back, or be that of another boot,
// or machine, whatever it shows then.
func (r *rehearsal) pass() {
	r.mu.Lock()
	defer r.mu.Unlock()
	by := time.Duration(r.random.Int64N(int64(4 * time.Minute)))
	r.now.Since += by
	switch r.random.IntN(30) {
	case 0:
		r.now = Instant{Boot: fmt.Sprint("boot", r.ahead.Load()), Since: time.Duration(r.random.Int64N(int64(24 * time.Hour)))}
	case 1:
		r.now.Since -= min(r.now.Since, time.Duration(r.random.Int64N(int64(time.Hour))))
	}
	r.ahead.Add(int64(by))
	fresh := r.clock + ".new"
	if err := os.WriteFile(fresh, []byte(r.now.String()), 0o600); err != nil {
		r.t.Error(err)
	}
	if err := os.Rename(fresh, r.clock); err != nil {
		r.t.Error(err)
	}
	r.passed.Add(int64(by))
}

// crash kills a process, and starts the next one.
func (r *rehearsal) crash(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.replicas[i].Load().kill()
	r.replicas[i].Store(r.start())
	r.kills.Add(1)
}

// living is a process that was not killed when it was looked at.
func (r *rehearsal) living(i int) *process {
	p := r.replicas[i].Load()
	select {
	case <-p.dead:
		r.mu.Lock() // until there is the next one
		defer r.mu.Unlock()
		return r.replicas[i].Load()
	default:
		return p
	}
}

// ask has some process do something, and lets the world go on meanwhile.
func (r *rehearsal) ask(random *rand.Rand, c call) (reply, porcupine.Operation) {
	done := r.done.Add(1)
	i := random.IntN(len(r.replicas))
	if done%80 == 0 {
		crashed := make(chan struct{})
		go func() { defer close(crashed); r.crash(i) }()
		defer func() { <-crashed }()
	}
	if done%2 == 0 {
		r.pass()
	}
	o := porcupine.Operation{Call: time.Now().UnixNano()}
	d := deed{Verb: c.Verb, Address: c.Address, Owner: c.Owners[0], Began: time.Duration(r.passed.Load())}
	answer := r.living(i).ask(c)
	d.Ended, o.Return = time.Duration(r.ahead.Load()), time.Now().UnixNano()
	o.Input, o.Output = d, outcome{Reason: answer.Reason, Unknown: answer.Unknown}
	return answer, o
}

// note writes down what was done with one address. What nobody knows may be done
// at any time from now on.
func (r *rehearsal) note(o porcupine.Operation, owner Owner, at string) {
	d, out := o.Input.(deed), o.Output.(outcome)
	d.Owner, d.Address = owner, at
	if out.Unknown {
		out.Reason, d.Ended, o.Return = "", 1<<62, 1<<62
	}
	o.Input, o.Output = d, out
	r.record.Lock()
	defer r.record.Unlock()
	if out.Unknown {
		r.lost++
	} else if out.Reason == "" && d.Verb != callRelease {
		r.grants++
	}
	r.history = append(r.history, o)
}

// caller takes addresses and gives them back.
type caller struct {
	*rehearsal
	random *rand.Rand
	name   string
	serial int
	held   []holding
}

type holding struct {
	owner Owner
	at    string
}

func (r *rehearsal) live(i, rounds int) {
	c := &caller{rehearsal: r, random: rand.New(rand.NewPCG(3, uint64(i))), name: fmt.Sprint("caller", i)}
	for range rounds {
		switch c.random.IntN(8) {
		case 0, 1:
			c.pick()
		case 2:
			c.batch()
		case 3, 4, 5:
			c.take()
		default:
			c.giveBack()
		}
		if len(c.held) > 2 {
			c.giveBack()
		}
	}
}

// next is an owner that never was.
func (c *caller) next() Owner {
	c.serial++
	return owner([]string{"default", "elsewhere"}[c.random.IntN(2)], fmt.Sprintf("%s-%d", c.name, c.serial))
}

func (c *caller) pick() {
	o := c.next()
	answer, operation := c.ask(c.random, call{Verb: callPick, Owners: []Owner{o}})
	if answer.Unknown {
		c.search(operation, []Owner{o})
		return
	}
	c.got(operation, []Owner{o}, answer)
}

func (c *caller) batch() {
	owners := []Owner{c.next(), c.next()}
	c.record.Lock()
	c.batches = append(c.batches, owners)
	c.record.Unlock()
	answer, operation := c.ask(c.random, call{Verb: callBatch, Owners: owners})
	d := operation.Input.(deed)
	d.Verb = callPick
	operation.Input = d
	if answer.Unknown {
		c.search(operation, owners)
		return
	}
	c.got(operation, owners, answer)
}

// got notes each address of an answer.
func (c *caller) got(operation porcupine.Operation, owners []Owner, answer reply) {
	if answer.Reason != "" {
		return // refused: nothing was done with any address
	}
	for i, at := range answer.Addresses {
		c.note(operation, owners[i], at)
		c.held = append(c.held, holding{owners[i], at})
	}
}

// search asks what owners got whose answer was lost. What is not found now may be
// there later: the end will tell.
func (c *caller) search(operation porcupine.Operation, owners []Owner) {
	for _, o := range owners {
		d := operation.Input.(deed)
		d.Owner = o
		operation.Input = d
		c.record.Lock()
		c.dark = append(c.dark, operation)
		c.record.Unlock()
		if answer, _ := c.ask(c.random, call{Verb: callFind, Owners: []Owner{o}}); len(answer.Addresses) == 1 {
			c.held = append(c.held, holding{o, answer.Addresses[0]})
		}
	}
}

func (c *caller) take() {
	o, at := c.next(), fmt.Sprintf("10.66.10.%d", 1+c.random.IntN(6))
	if len(c.held) > 0 && c.random.IntN(4) == 0 {
		o, at = c.held[0].owner, c.held[0].at // what it has
	}
	answer, operation := c.ask(c.random, call{Verb: callTake, Owners: []Owner{o}, Address: at})
	c.note(operation, o, at)
	if answer.Unknown || answer.Reason == "" {
		c.held = append(c.held, holding{o, at})
	}
}

func (c *caller) giveBack() {
	if len(c.held) == 0 {
		return
	}
	h := c.held[0]
	answer, operation := c.ask(c.random, call{Verb: callRelease, Owners: []Owner{h.owner}, Address: h.at})
	c.note(operation, h.owner, h.at)
	if answer.Reason == "" && !answer.Unknown {
		c.held = c.held[1:]
	}
}

// settle learns from the store what the picks got whose answers were lost, and
// that batches were done whole or not at all.
func (r *rehearsal) settle() {
	for i := range r.replicas {
		r.replicas[i].Load().kill()
	}
	given := map[string]string{} // by owner's name
	for _, c := range history(r.t, r.client) {
		if c.owner != "" {
			given[c.owner] = c.lease
		}
	}
	for _, o := range r.dark {
		d := o.Input.(deed)
		lease, was := given[d.Owner.key().String()]
		if !was {
			continue
		}
		at, err := IPs(nil).ParseName(lease)
		if err != nil {
			r.t.Fatal(err)
		}
		r.note(o, d.Owner, at.String())
	}
	for _, owners := range r.batches {
		_, first := given[owners[0].key().String()]
		_, second := given[owners[1].key().String()]
		if first != second {
			r.t.Errorf("of %v one has an address: %t, %t", owners, first, second)
		}
	}
}
