package fabric

import (
	"bytes"
	"cmp"
	"maps"
	"net"
	"slices"
	"sync"
)

// A register remembers the attachments, so that DHCP is answered without asking the kernel. Its zero value is empty.
type register struct {
	lock sync.RWMutex
	byID map[string]Attachment
}

func (r *register) get(id string) (Attachment, bool) {
	r.lock.RLock()
	defer r.lock.RUnlock()
	found, known := r.byID[id]
	return found, known
}

func (r *register) put(a Attachment) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.byID == nil {
		r.byID = map[string]Attachment{}
	}
	r.byID[a.ID] = a
}

func (r *register) remove(id string) {
	r.lock.Lock()
	defer r.lock.Unlock()
	delete(r.byID, id)
}

func (r *register) clear() {
	r.lock.Lock()
	defer r.lock.Unlock()
	clear(r.byID)
}

func (r *register) all() []Attachment {
	r.lock.RLock()
	defer r.lock.RUnlock()
	return slices.SortedFunc(maps.Values(r.byID), func(a, b Attachment) int { return cmp.Compare(a.ID, b.ID) })
}

func (r *register) byMAC(mac net.HardwareAddr) (Attachment, bool) {
	r.lock.RLock()
	defer r.lock.RUnlock()
	for _, a := range r.byID {
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
	for _, other := range r.byID {
		if err := wanted.Clash(other); err != nil {
			return err
		}
	}
	return nil
}
