package garbage

import (
	"strings"
	"sync"
)

// everything is the name that stands for whatever a request may need.
const everything = "*"

// gate keeps the collector off of what requests name: digests, uploads and
// repositories. A name is safe from the request's begin on, and to the end of a
// collection that was under way then, which may have looked before.
type gate struct {
	mu    sync.Mutex
	users map[string]int  // requests under way by what they name
	named map[string]bool // since the collection began; nil outside one
}

func newGate() *gate { return &gate{users: map[string]int{}} }

// enter says what a request needs until it leaves.
func (g *gate) enter(names []string) (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range names {
		g.users[name]++
		if g.named != nil {
			g.named[name] = true
		}
	}
	return func() { g.leave(names) }
}

func (g *gate) leave(names []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range names {
		if g.users[name]--; g.users[name] == 0 {
			delete(g.users, name)
		}
	}
}

// watch begins a collection, rest ends it.
func (g *gate) watch() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.named = make(map[string]bool, len(g.users))
	for name := range g.users {
		g.named[name] = true
	}
}

func (g *gate) rest() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.named = nil
}

// unless does something, while no request can begin, that no request may need
// whose names are these. It reports whether it was done.
func (g *gate) unless(names []string, do func() error) (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.named[everything] {
		return false, nil
	}
	for _, name := range names {
		if g.named[name] {
			return false, nil
		}
	}
	return true, do()
}

// unused is unless for a folder of repositories: none in it may be in use now.
func (g *gate) unused(repository string, do func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	folder := repositoryName(repository)
	for name := range g.users {
		if name == folder || strings.HasPrefix(name, folder+"/") {
			return nil
		}
	}
	return do()
}

// repositoryName and uploadName keep names of different kinds apart; digests
// stand for themselves.
func repositoryName(name string) string { return "repository " + name }
func uploadName(id string) string       { return "upload " + id }
