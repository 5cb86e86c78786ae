package publish

import (
	"iter"
	"net/netip"
)

// forIngresses is the owner of the address of all Ingresses.
const forIngresses = "ingress"

// pool has the addresses of load balancers. Which Service has which is written in
// the Services themselves; the pool is one goroutine's.
type pool struct {
	prefix netip.Prefix
	owners map[netip.Addr]string // by UID
}

func newPool(prefix netip.Prefix) *pool {
	return &pool{prefix: prefix.Masked(), owners: map[netip.Addr]string{}}
}

// retain takes back what Services had that are gone, and learns what those have
// that are there: the older one keeps an address.
func (p *pool) retain(world *world) {
	present := map[string]bool{forIngresses: true}
	for _, ingress := range world.ingresses {
		if list := ingress.Status.LoadBalancer.Ingress; len(list) > 0 {
			p.learn(list[0].IP, forIngresses)
		}
	}
	for _, service := range world.services {
		if !balanced(service) {
			continue
		}
		present[string(service.UID)] = true
		if list := service.Status.LoadBalancer.Ingress; len(list) > 0 {
			p.learn(list[0].IP, string(service.UID))
		}
	}
	for at, owner := range p.owners {
		if !present[owner] {
			delete(p.owners, at)
		}
	}
}

// learn notes who has an address, as a status tells it.
func (p *pool) learn(text, owner string) {
	at, err := netip.ParseAddr(text)
	if err == nil && p.prefix.Contains(at) && p.owners[at] == "" {
		p.owners[at] = owner
	}
}

// candidates are the addresses that an owner may have: the one it has, else the
// one that it asks for, else those that are free.
func (p *pool) candidates(owner string, wish netip.Addr) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		for at, other := range p.owners {
			if other == owner && (!wish.IsValid() || at == wish) && !yield(at) {
				return
			}
		}
		if wish.IsValid() {
			if p.prefix.Contains(wish) && p.owners[wish] == "" {
				yield(wish)
			}
			return
		}
		for at := p.prefix.Addr().Next(); p.prefix.Contains(at.Next()); at = at.Next() {
			if p.owners[at] == "" && !yield(at) {
				return
			}
		}
	}
}

// give makes an address the owner's only one.
func (p *pool) give(at netip.Addr, owner string) {
	for former, other := range p.owners {
		if other == owner {
			delete(p.owners, former)
		}
	}
	p.owners[at] = owner
}
