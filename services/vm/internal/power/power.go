// Package power remembers what was decided about a VM's running and isn't in
// its spec: whether the user stopped it, which operation wants a restart, where
// it was placed, with which configuration it was started.
//
// It owns one etcd key a VM. It must not know what a decision means.
package power

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"orlop.dev/kit/fault"
)

// Record is the memory of one VM.
type Record struct {
	// On is what was last asked for: by an operation, or by the guest that
	// powered itself off. Nil where nobody asked for anything yet.
	On *bool `json:"on,omitempty"`
	// Force turns the VM off without waiting for the guest.
	Force bool `json:"force,omitempty"`
	// Operation is the UID of the last operation that was told here.
	Operation string `json:"operation,omitempty"`
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
	// Started is when the present instance was started, Waited for how long its
	// dependencies were waited for, AgentAfter how long its guest's agent took.
	Started    *time.Time    `json:"started,omitempty"`
	Waited     time.Duration `json:"waited,omitempty"`
	AgentAfter time.Duration `json:"agentAfter,omitempty"`

	// NotBefore holds back the next start, after an instance that ended early or
	// did not come to be.
	NotBefore *time.Time `json:"notBefore,omitempty"`
	// Failure is the last start's, nil after one that went well.
	Failure *Failure `json:"failure,omitempty"`
	// What the present instance takes of its node.
	MilliCPU    int64 `json:"milliCPU,omitempty"`
	MemoryBytes int64 `json:"memoryBytes,omitempty"`

	revision int64
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
	r.Awaits = false
	r.Started, r.AgentAfter, r.MilliCPU, r.MemoryBytes = nil, 0, 0, 0
}

// Store keeps records below a prefix in etcd.
type Store struct {
	client *clientv3.Client
	prefix string
}

// NewStore returns the records of a service's prefix.
func NewStore(client *clientv3.Client, prefix string) *Store {
	return &Store{client: client, prefix: prefix + "/power/"}
}

// Get returns a VM's record, an empty one where there is none.
func (s *Store) Get(ctx context.Context, uid string) (*Record, error) {
	response, err := s.client.Get(ctx, s.prefix+uid)
	if err != nil {
		return nil, unavailable(err)
	}
	record := new(Record)
	if len(response.Kvs) == 0 {
		return record, nil
	}
	if err := json.Unmarshal(response.Kvs[0].Value, record); err != nil {
		return nil, fmt.Errorf("record of VM %s: %w", uid, err)
	}
	record.revision = response.Kvs[0].ModRevision
	return record, nil
}

// All returns the records of all VMs.
func (s *Store) All(ctx context.Context) ([]*Record, error) {
	response, err := s.client.Get(ctx, s.prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, unavailable(err)
	}
	records := make([]*Record, 0, len(response.Kvs))
	for _, kv := range response.Kvs {
		record := new(Record)
		if err := json.Unmarshal(kv.Value, record); err != nil {
			return nil, fmt.Errorf("record %s: %w", kv.Key, err)
		}
		records = append(records, record)
	}
	return records, nil
}

// Put writes a record that Get returned, durably. Class Stale if somebody else
// wrote it in between.
func (s *Store) Put(ctx context.Context, uid string, record *Record) error {
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	key := s.prefix + uid
	response, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", record.revision)).
		Then(clientv3.OpPut(key, string(text))).
		Commit()
	if err != nil {
		return unavailable(err)
	}
	if !response.Succeeded {
		return fault.New(fault.Stale, "PowerRecordChanged", "the VM's power state was changed at the same time")
	}
	record.revision = response.Header.Revision
	return nil
}

// Change applies change to the newest record, as often as it takes.
func (s *Store) Change(ctx context.Context, uid string, change func(*Record)) error {
	for {
		record, err := s.Get(ctx, uid)
		if err != nil {
			return err
		}
		change(record)
		if err := s.Put(ctx, uid, record); fault.ClassOf(err) != fault.Stale {
			return err
		}
	}
}

// Delete forgets a VM. Idempotent.
func (s *Store) Delete(ctx context.Context, uid string) error {
	if _, err := s.client.Delete(ctx, s.prefix+uid); err != nil {
		return unavailable(err)
	}
	return nil
}

func unavailable(err error) error {
	return fault.Wrap(err, fault.Transient, "StoreUnavailable", "the store can't be reached")
}
