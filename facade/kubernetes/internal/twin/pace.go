package twin

import (
	"sync"
	"time"

	"orlop.dev/kit/resource"
)

// pace slows down the writing of statuses that change in progress alone.
type pace struct {
	now func() time.Time

	mu   sync.Mutex
	last map[resource.Key]time.Time
}

func newPace(now func() time.Time) *pace {
	return &pace{now: now, last: map[resource.Key]time.Time{}}
}

// wait is how long the writing of a status has to wait: not at all where its
// headline changed.
func (p *pace) wait(key resource.Key, present, wanted string) time.Duration {
	if present != wanted {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	last, written := p.last[key]
	if !written {
		return 0
	}
	return max(0, progressInterval-p.now().Sub(last))
}

func (p *pace) wrote(key resource.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[key] = p.now()
}

func (p *pace) forget(key resource.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.last, key)
}
