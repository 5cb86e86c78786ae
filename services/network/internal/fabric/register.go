package fabric

import (
	"bytes"
	"cmp"
	"maps"
	"net"
	"slices"
	"sync"
)

// A place is where one tap is: a guest's on a node.
type place struct{ id, node string }

func (a Attachment) place() place { return place{a.ID, a.Node} }

// A register remembers the attachments, so that DHCP is answered without asking the kernel. Its zero value is empty.
type register struct {
	lock sync.RWMutex
	at   map[place]Attachment
}

func (r *register) get(at place) (Attachment, bool) {
	r.lock.RLock()
	defer r.lock.RUnlock()
	found, known := r.at[at]
	return found, known
}

// places are those of one guest.
func (r *register) places(id string) []place {
	r.lock.RLock()
	defer r.lock.RUnlock()
	var places []place
	for at := range r.at {
		if at.id == id {
			places = append(places, at)
		}
	}
	return places
}

func (r *register) put(a Attachment) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.at == nil {
		r.at = map[place]Attachment{}
	}
	r.at[a.place()] = a
}

func (r *register) remove(at place) {
	r.lock.Lock()
	defer r.lock.Unlock()
	delete(r.at, at)
}

func (r *register) clear() {
	r.lock.Lock()
	defer r.lock.Unlock()
	clear(r.at)
}

func (r *register) all() []Attachment {
	r.lock.RLock()
	defer r.lock.RUnlock()
	return slices.SortedFunc(maps.Values(r.at), func(a, b Attachment) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Node, b.Node))
	})
}

func (r *register) byMAC(mac net.HardwareAddr) (Attachment, bool) {
	r.lock.RLock()
	defer r.lock.RUnlock()
	for _, a := range r.at {
		if bytes.Equal(a.MAC, mac) {
			return a, true
		}
	}
	return Attachment{}, false
}

// clash returns a *ConflictError if another guest has what an attachment claims.
func (r *register) clash(wanted Attachment) error {
	r.lock.RLock()
	defer r.lock.RUnlock()
	for _, other := range r.at {
		if err := wanted.Clash(other); err != nil {
			return err
		}
	}
	return nil
}
