package garbage

import "strings"

// Busy reports whether a request under way names something of that kind.
func (c *Collector) Busy(kind string) bool {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	for name := range c.gate.users {
		if strings.HasPrefix(name, kind+" ") {
			return true
		}
	}
	return false
}
