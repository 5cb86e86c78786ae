package home

import (
	"path/filepath"
	"time"
)

// Phase is where the daemon is in its life.
type Phase string

// The phases. A daemon that was killed leaves the last one in the file: whether
// one lives is [Home.Owner]'s to say.
const (
	Starting Phase = "Starting"
	Ready    Phase = "Ready"
	Stopping Phase = "Stopping"
	Stopped  Phase = "Stopped"
	Failed   Phase = "Failed"
)

// Status is what the daemon tells about itself.
type Status struct {
	PID     int       `json:"pid"`
	Phase   Phase     `json:"phase"`
	Version string    `json:"version"`
	Began   time.Time `json:"began"`
	// Error is why the daemon failed: a sentence.
	Error string `json:"error,omitempty"`
	// Steps are those of the start, in order; the last one may be under way.
	Steps []Step `json:"steps"`
	// Facts are what the parts found on this machine.
	Facts []Fact `json:"facts,omitempty"`
}

// Step is a step of the daemon's start.
type Step struct {
	Name string `json:"name"`
	// Detail says what came out of it.
	Detail string        `json:"detail,omitempty"`
	Done   bool          `json:"done"`
	Took   time.Duration `json:"tookNanoseconds"`
}

// Fact is something about this machine that decides how well things work.
type Fact struct {
	// Name, such as "accelerator" or "network".
	Name  string `json:"name"`
	Value string `json:"value"`
	// Reason says why, and what would change it: a sentence.
	Reason string `json:"reason,omitempty"`
}

// ReadStatus returns what the last daemon told. The error is fs.ErrNotExist
// where there was none.
func (h Home) ReadStatus() (Status, error) {
	var s Status
	err := readJSON(h.statusFile(), &s)
	return s, err
}

// WriteStatus is for the daemon alone.
func (h Home) WriteStatus(s Status) error { return writeJSON(h.statusFile(), s) }

func (h Home) statusFile() string { return filepath.Join(h.Run(), "status.json") }
