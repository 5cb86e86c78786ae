// Package record keeps small records in etcd, one a key, in JSON: what a
// reconciler decided or saw, and must not lose, and that is no object of the API.
//
// It owns the keys below a prefix. It must not know what is in a record.
package record

import (
	"context"
	"encoding/json"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// ReasonChanged is that of a Put that came too late.
const ReasonChanged = "RecordChanged"

// Version is embedded in a record, and knows which state of it was read.
type Version struct{ revision int64 }

func (v *Version) version() *Version { return v }

// Exists reports whether the record was there when it was read, or was written.
func (v *Version) Exists() bool { return v.revision > 0 }

// Same reports whether both are of the same written state.
func (v *Version) Same(other *Version) bool { return v.revision > 0 && v.revision == other.revision }

// Record is a pointer to a struct that embeds Version.
type Record[T any] interface {
	*T
	version() *Version
}

// Store keeps records of one type below a prefix.
type Store[T any, R Record[T]] struct {
	client  *clientv3.Client
	prefix  string
	replica replica[R]
}

// New returns the records below a prefix, which ends in a slash.
func New[T any, R Record[T]](client *clientv3.Client, prefix string) *Store[T, R] {
	return &Store[T, R]{client: client, prefix: prefix}
}

// Get returns a record, an empty one where there is none.
func (s *Store[T, R]) Get(ctx context.Context, key string) (R, error) {
	response, err := s.client.Get(ctx, s.prefix+key)
	if err != nil {
		return nil, resource.Unavailable(err)
	}
	if len(response.Kvs) == 0 {
		return R(new(T)), nil
	}
	return decode[T, R](response.Kvs[0].Key, response.Kvs[0].Value, response.Kvs[0].ModRevision)
}

// All returns all records, in the order of their keys. Nobody may change them:
// where they are followed, others have them too.
func (s *Store[T, R]) All(ctx context.Context) ([]R, error) {
	if records, complete := s.replica.all(); complete {
		return records, nil
	}
	response, err := s.client.Get(ctx, s.prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, resource.Unavailable(err)
	}
	records := make([]R, 0, len(response.Kvs))
	for _, kv := range response.Kvs {
		record, err := decode[T, R](kv.Key, kv.Value, kv.ModRevision)
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, nil
}

func decode[T any, R Record[T]](key, text []byte, revision int64) (R, error) {
	record := R(new(T))
	if err := json.Unmarshal(text, record); err != nil {
		return nil, fmt.Errorf("record %s: %w", key, err)
	}
	record.version().revision = revision
	return record, nil
}

// Put writes a record that Get returned, durably. Class Stale, ReasonChanged if
// somebody else wrote it in between.
func (s *Store[T, R]) Put(ctx context.Context, key string, record R) error {
	text, err := json.Marshal(record)
	if err != nil {
		return err
	}
	version := record.version()
	response, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(s.prefix+key), "=", version.revision)).
		Then(clientv3.OpPut(s.prefix+key, string(text))).
		Commit()
	if err != nil {
		return resource.Unavailable(err)
	}
	if !response.Succeeded {
		return fault.New(fault.Stale, ReasonChanged, "the record of %s was changed at the same time", key)
	}
	version.revision = response.Header.Revision
	if s.replica.follows() {
		return s.wrote(key, text, version.revision)
	}
	return nil
}

// Change applies change to the newest state of a record, as often as it takes.
func (s *Store[T, R]) Change(ctx context.Context, key string, change func(R)) error {
	for {
		record, err := s.Get(ctx, key)
		if err != nil {
			return err
		}
		change(record)
		if err := s.Put(ctx, key, record); !fault.Is(err, fault.Stale) {
			return err
		}
	}
}

// Delete forgets a record. Idempotent.
func (s *Store[T, R]) Delete(ctx context.Context, key string) error {
	response, err := s.client.Delete(ctx, s.prefix+key)
	if err != nil {
		return resource.Unavailable(err)
	}
	if response.Deleted > 0 {
		s.replica.see(entry[R]{key: key, revision: response.Header.Revision, absent: true}, false)
	}
	return nil
}
