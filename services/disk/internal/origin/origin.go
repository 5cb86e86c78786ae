// Package origin remembers how each disk came to be: where its volume was made,
// what it still has of the image service, and when which step was done.
//
// It owns one etcd key a disk, apart from the volumes, so that a volume that is
// gone is told from one that never was. It must not know what a step means.
package origin

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"orlop.dev/kit/fault"
)

// Record is the memory of one disk.
type Record struct {
	// Class and Node are where the volume is, written down before it is made. Node
	// is empty where every node reaches it.
	Class string `json:"class,omitempty"`
	Node  string `json:"node,omitempty"`
	// Bytes is the size that the volume was last seen to have.
	Bytes int64 `json:"bytes,omitempty"`
	// Source is the data source, in JSON, of which the image service keeps
	// something for the disk: written down before it is asked for, and cleared
	// after it was given back.
	Source json.RawMessage `json:"source,omitempty"`

	// Imported is when the import was done, nil for a disk that needs none, and
	// Importing when it was first asked for.
	Importing *time.Time `json:"importing,omitempty"`
	Imported  *time.Time `json:"imported,omitempty"`
	// Prepared is when all that the disk depends on was there, Consumed when a
	// VM asked for it, Made when its volume was seen.
	Prepared *time.Time `json:"prepared,omitempty"`
	Consumed *time.Time `json:"consumed,omitempty"`
	Made     *time.Time `json:"made,omitempty"`

	revision int64
}

// Store keeps records below a prefix in etcd.
type Store struct {
	client *clientv3.Client
	prefix string
}

// NewStore returns the records of a service's prefix.
func NewStore(client *clientv3.Client, prefix string) *Store {
	return &Store{client: client, prefix: prefix + "/origin/"}
}

// Get returns a disk's record by its UID, an empty one where there is none.
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
		return nil, fmt.Errorf("record of disk %s: %w", uid, err)
	}
	record.revision = response.Kvs[0].ModRevision
	return record, nil
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
		return fault.New(fault.Stale, "OriginRecordChanged", "the disk's record was changed at the same time")
	}
	record.revision = response.Header.Revision
	return nil
}

// Delete forgets a disk. Idempotent.
func (s *Store) Delete(ctx context.Context, uid string) error {
	if _, err := s.client.Delete(ctx, s.prefix+uid); err != nil {
		return unavailable(err)
	}
	return nil
}

func unavailable(err error) error {
	return fault.Wrap(err, fault.Transient, "StoreUnavailable", "the store can't be reached")
}
