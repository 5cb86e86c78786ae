// Package power remembers what was decided about a VM's running and isn't in
// its spec: whether the user stopped it, which operation wants a restart, where
// it was placed, with which configuration it was started.
//
// It owns one etcd key a VM. It must not know what a decision means.
package power

import (
	"encoding/json"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"orlop.dev/kit/resource/record"
)

// Record is the memory of one VM.
type Record struct {
	record.Version

	// UID is the VM's, written when it is placed.
	UID string `json:"uid,omitempty"`
	// On is what was last asked for: by an operation, or by the guest that
	// powered itself off. Nil where nobody asked for anything yet.
	On *bool `json:"on,omitempty"`
	// Force turns the VM off without waiting for the guest.
	Force bool `json:"force,omitempty"`
	// Operation is the UID of the last operation that was told here.
	Operation string `json:"operation,omitempty"`
	// Maintenance is who keeps the VM off; nil where nobody does.
	Maintenance *Maintenance `json:"maintenance,omitempty"`
	// Memory is what the next instance goes on from; nil for one that boots.
	Memory *Memory `json:"memory,omitempty"`
	// Restart is the UID of the operation that wants a new instance; empty once
	// the old one is gone.
	Restart string `json:"restart,omitempty"`
	// StopSince is when the present instance was first told to shut down.
	StopSince *time.Time `json:"stopSince,omitempty"`
	// Instance counts the starts.
	Instance int `json:"instance,omitempty"`
	// Node is where the present instance was placed; empty without one.
	Node string `json:"node,omitempty"`
	// Awaits is true of an instance that is placed and has not begun, because its
	// disks are made on its node first.
	Awaits bool `json:"awaits,omitempty"`
	// Applied is the spec that the present instance was started with, in JSON.
	Applied json.RawMessage `json:"applied,omitempty"`
	// Provisioned tells whether a Secret has changed since the present instance was
	// set up from it; empty without one. It says nothing of its content.
	Provisioned string `json:"provisioned,omitempty"`
	// Started is when the present instance was started, Waited for how long its
	// dependencies were waited for, AgentAfter how long its guest's agent took.
	Started    *time.Time    `json:"started,omitempty"`
	Waited     time.Duration `json:"waited,omitempty"`
	AgentAfter time.Duration `json:"agentAfter,omitempty"`

	// Pinned are the disks of the present instance that are on its node only.
	Pinned []string `json:"pinned,omitempty"`
	// Migration is the present one, or the last.
	Migration *Migration `json:"migration,omitempty"`
	// Ran is when the present instance was first seen to run: one that is gone
	// without a trace since then has ended, and is not one that never began.
	Ran *time.Time `json:"ran,omitempty"`
	// Plugged are the IDs of the devices that the last instance had of attachments,
	// in their order: the next one has them so again.
	Plugged []string `json:"plugged,omitempty"`

	// NotBefore holds back the next start, after an instance that ended early or
	// did not come to be.
	NotBefore *time.Time `json:"notBefore,omitempty"`
	// Failure is the last start's, nil after one that went well.
	Failure *Failure `json:"failure,omitempty"`
	// What the present instance takes of its node.
	MilliCPU    int64 `json:"milliCPU,omitempty"`
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
}

// Maintenance is one that keeps a VM off while it changes what the VM is made of.
type Maintenance struct {
	UID string `json:"uid"`
	// Kind and Name are told to people.
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// Memory is the memory of a guest that was kept, with its disks, by a snapshot.
type Memory struct {
	Token string `json:"token"`
	// Used is set before the guest is let go: never is there a second one with disks
	// that the first has written to.
	Used bool `json:"used,omitempty"`
	// AtRest is a guest whose file systems are to be thawed.
	AtRest bool `json:"atRest,omitempty"`
	// Problem is why the VM was booted instead; told to people until its next start.
	Problem string `json:"problem,omitempty"`
}

// Usable reports whether an instance is to go on from the memory; nil is not.
func (m *Memory) Usable() bool { return m != nil && !m.Used && m.Problem == "" }

// Migration is a move of an instance from node to node.
type Migration struct {
	// Operation is the UID of the operation that wants it.
	Operation string `json:"operation"`
	// Converge lets the guest be slowed down.
	Converge bool `json:"converge,omitempty"`
	// NodeSelector are labels that the target must have.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	Source       string            `json:"source"`
	// Target is empty until it is chosen.
	Target string `json:"target,omitempty"`
	// WaitsFor and Waits are why none is chosen, as a reason and as a sentence.
	WaitsFor string `json:"waitsFor,omitempty"`
	Waits    string `json:"waits,omitempty"`
	// Began is when it was asked for, Sending when memory began to be sent.
	Began   time.Time  `json:"began"`
	Sending *time.Time `json:"sending,omitempty"`
	// Failure is why it is being ended, or was.
	Failure *Reason `json:"failure,omitempty"`
	// Ended is nil while it goes on.
	Ended     *time.Time `json:"ended,omitempty"`
	Succeeded bool       `json:"succeeded,omitempty"`
	// Took is how long memory was sent, Downtime how long the guest stood still.
	Took     time.Duration `json:"took,omitempty"`
	Downtime time.Duration `json:"downtime,omitempty"`
}

// Active reports whether a migration goes on; nil doesn't.
func (m *Migration) Active() bool { return m != nil && m.Ended == nil }

// Reason is for programs and for people.
type Reason struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Failure is a start that failed.
type Failure struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Count is how many starts failed in a row.
	Count int `json:"count"`
	// Generation of the spec that could not be started.
	Generation int32 `json:"generation"`
}

// InstanceGone clears what was true of the present instance alone.
func (r *Record) InstanceGone() {
	r.StopSince, r.Node, r.Applied, r.Force, r.Restart = nil, "", nil, false, ""
	r.Awaits, r.Pinned, r.Provisioned, r.Ran = false, nil, "", nil
	r.Started, r.AgentAfter, r.MilliCPU, r.MemoryBytes = nil, 0, 0, 0
	if !r.Memory.Usable() {
		r.Memory = nil
	}
}

// Store keeps the records of VMs by their UIDs.
type Store = record.Store[Record, *Record]

// NewStore returns the records of a service's prefix.
func NewStore(client *clientv3.Client, prefix string) *Store {
	return record.New[Record](client, prefix+"/power/")
}
