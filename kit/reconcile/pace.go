package reconcile

import (
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	"orlop.dev/kit/resource"
)

const (
	// progressEvery limits how often a status is written of which only
	// unimportant parts change.
	progressEvery = time.Second
	// watchPause keeps a watch that fails at once from turning hot.
	watchPause = 500 * time.Millisecond
	// Back-off of an object after failures in a row.
	backoffFirst = 200 * time.Millisecond
	backoffMost  = time.Minute
)

// pace remembers when the status of each object was last written.
type pace struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	last  map[resource.Key]time.Time
}

func newPace(c clock.PassiveClock) *pace {
	return &pace{clock: c, last: map[resource.Key]time.Time{}}
}

// wait is how long progress must be held back; 0 is not at all.
func (p *pace) wait(key resource.Key) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok := p.last[key]
	if !ok {
		return 0
	}
	return max(0, progressEvery-p.clock.Since(last))
}

func (p *pace) wrote(key resource.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[key] = p.clock.Now()
}

func (p *pace) forget(key resource.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.last, key)
}

// backoff doubles the wait with each failure in a row and adds jitter, so that
// objects that failed together don't come back together.
type backoff struct {
	workqueue.TypedRateLimiter[resource.Key]
}

func newBackoff() backoff {
	return backoff{workqueue.NewTypedItemExponentialFailureRateLimiter[resource.Key](backoffFirst, backoffMost)}
}

// When implements workqueue.TypedRateLimiter.
func (b backoff) When(key resource.Key) time.Duration {
	d := b.TypedRateLimiter.When(key)
	return d + rand.N(d/2+1)
}
