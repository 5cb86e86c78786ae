package placement

import (
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/services/vm/internal/power"
)

// sighting is a VM as it was last seen.
type sighting struct {
	// vm is nil for one that is not there, or not yet; record for one that is not
	// placed.
	vm     *vmv1.VirtualMachine
	record *power.Record
	// guest is what both say; nil where they have to be read.
	guest *Guest
}

// changed has a VM read anew.
func (s *sighting) changed(vm *vmv1.VirtualMachine) {
	if s.vm != vm {
		s.vm, s.guest = vm, nil
	}
}

// sightings are what was seen of all VMs the last time. Almost all are as they
// were: pointers tell, and nothing is looked up or read for those.
type sightings struct {
	// machines are the VMs in their order, byUID all sightings, placed those with a
	// record, in the order of UIDs.
	machines []*vmv1.VirtualMachine
	byUID    map[string]*sighting
	placed   []*sighting
	// classes are the versions of the classes that were read.
	classes map[string]string
}

// see takes all VMs, in the same order each time.
func (s *sightings) see(machines []*vmv1.VirtualMachine) {
	if !s.replaced(machines) {
		s.rebuild(machines)
	}
	s.machines = machines
}

// replaced takes VMs of which none was made or deleted since the last time, and
// reports whether they are.
func (s *sightings) replaced(machines []*vmv1.VirtualMachine) bool {
	if len(machines) != len(s.machines) {
		return false
	}
	for i, vm := range machines {
		old := s.machines[i]
		if vm == old {
			continue
		}
		uid := vm.GetMetadata().GetUid()
		if uid != old.GetMetadata().GetUid() {
			return false
		}
		s.byUID[uid].changed(vm)
	}
	return true
}

func (s *sightings) rebuild(machines []*vmv1.VirtualMachine) {
	old := s.byUID
	s.byUID = make(map[string]*sighting, len(machines))
	for _, vm := range machines {
		uid := vm.GetMetadata().GetUid()
		known := old[uid]
		if known == nil {
			known = new(sighting)
		}
		known.changed(vm)
		s.byUID[uid] = known
		delete(old, uid)
	}
	for uid, known := range old {
		if known.record != nil {
			known.changed(nil)
			s.byUID[uid] = known
		}
	}
}

// seeClasses has the VMs read anew whose class is another one now.
func (s *sightings) seeClasses(version func(name string) string) {
	changed := map[string]bool{}
	for name, old := range s.classes {
		if now := version(name); now != old {
			s.classes[name], changed[name] = now, true
		}
	}
	if len(changed) == 0 {
		return
	}
	for _, known := range s.placed {
		if changed[known.vm.GetSpec().GetVirtualMachineClassName()] {
			known.guest = nil
		}
	}
}

// reads remembers which version of a class is read.
func (s *sightings) reads(name string, version func(name string) string) {
	if _, known := s.classes[name]; known {
		return
	}
	if s.classes == nil {
		s.classes = map[string]string{}
	}
	s.classes[name] = version(name)
}

// place takes all records, in the order of UIDs, and returns the VMs that are
// placed, of which those without a guest have to be read.
func (s *sightings) place(records []*power.Record) []*sighting {
	old, placed := s.placed, make([]*sighting, 0, len(records))
	for _, record := range records {
		if record.Node == "" {
			continue
		}
		for len(old) > 0 && old[0].record != record && old[0].record.UID < record.UID {
			s.leave(old[0])
			old = old[1:]
		}
		var known *sighting
		if len(old) > 0 && (old[0].record == record || old[0].record.UID == record.UID) {
			known, old = old[0], old[1:]
		} else {
			known = s.of(record.UID)
		}
		if known.record != record {
			if known.record == nil || !known.record.Same(&record.Version) {
				known.guest = nil
			}
			known.record = record
		}
		placed = append(placed, known)
	}
	for _, gone := range old {
		s.leave(gone)
	}
	s.placed = placed
	return placed
}

// leave is for one that is not placed any more.
func (s *sightings) leave(known *sighting) {
	if known.vm == nil {
		delete(s.byUID, known.record.UID)
	}
	known.record, known.guest = nil, nil
}

func (s *sightings) of(uid string) *sighting {
	known := s.byUID[uid]
	if known == nil {
		known = new(sighting)
		if s.byUID == nil {
			s.byUID = map[string]*sighting{}
		}
		s.byUID[uid] = known
	}
	return known
}
