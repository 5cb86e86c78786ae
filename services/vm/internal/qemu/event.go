package qemu

import (
	"encoding/json"
	"sync"
	"time"
)

// EventName is what an Event says: QEMU's own word for it, or one of ours.
type EventName string

// The events that matter to most. Others of QEMU's QMP reference come too.
const (
	EventShutdown     EventName = "SHUTDOWN" // the guest powered off; the process stays, paused
	EventReset        EventName = "RESET"    // the guest, or we, rebooted
	EventStop         EventName = "STOP"
	EventResume       EventName = "RESUME"
	EventPanicked     EventName = "GUEST_PANICKED"
	EventIOError      EventName = "BLOCK_IO_ERROR"
	EventChannel      EventName = "VSERPORT_CHANGE" // the guest agent came or went
	EventDeviceGone   EventName = "DEVICE_DELETED"
	EventJob          EventName = "JOB_STATUS_CHANGE"  // a copying is a step further
	EventMigration    EventName = "MIGRATION"          // a live migration is a step further
	EventConnected    EventName = "ORLOP_CONNECTED"    // ours: the QMP connection is new; look at the state
	EventDisconnected EventName = "ORLOP_DISCONNECTED" // ours: it was lost; it is being made again
	EventGone         EventName = "ORLOP_GONE"         // ours, and the last: the process ended
)

// Event is a change of one machine. Events are hints to look again: whoever
// comes late asks Process.State.
type Event struct {
	Machine string // its ID
	Name    EventName
	Time    time.Time
	Data    json.RawMessage // QEMU's members, or nil
}

// subscriberBuffer is how far a subscriber may fall behind, in events.
const subscriberBuffer = 64

// subscribers is who listens to one process.
type subscribers struct {
	mu     sync.Mutex
	closed bool
	open   map[chan Event]struct{}
}

func (s *subscribers) add() (<-chan Event, func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := make(chan Event, subscriberBuffer)
	if s.closed {
		close(events)
		return events, func() {}
	}
	if s.open == nil {
		s.open = map[chan Event]struct{}{}
	}
	s.open[events] = struct{}{}
	return events, func() { s.end(events) }
}

func (s *subscribers) end(events chan Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.open[events]; ok {
		delete(s.open, events)
		close(events)
	}
}

// publish never blocks: a subscriber that is too far behind is ended instead,
// which it notices, where a lost event it would not.
func (s *subscribers) publish(event Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for events := range s.open {
		select {
		case events <- event:
		default:
			delete(s.open, events)
			close(events)
		}
	}
}

func (s *subscribers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for events := range s.open {
		close(events)
	}
	clear(s.open)
}
