package record

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/btree"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	treeDegree = 32
	// longestPause is between attempts to follow a store that can't be reached.
	longestPause = 5 * time.Second
)

var errWatchEnded = errors.New("the watch of the records ended")

// replica is all records as they were last seen, by key. What this process wrote
// is in it when the write returns; what others wrote, a little later.
type replica[R any] struct {
	mu     sync.Mutex
	tree   *btree.BTreeG[entry[R]] // nil while nothing is followed
	loaded bool
}

// entry is one record. One that was deleted stays, absent, until the watch has
// told of it: an older state that comes after it must not bring it back.
type entry[R any] struct {
	key      string
	revision int64
	absent   bool
	record   R
}

// begin forgets all, and takes what is seen from now on.
func (r *replica[R]) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tree, r.loaded = btree.NewG(treeDegree, func(a, b entry[R]) bool { return a.key < b.key }), false
}

func (r *replica[R]) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tree, r.loaded = nil, false
}

// follows tells whether anything is taken.
func (r *replica[R]) follows() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tree != nil
}

// see takes a state of a record, unless a newer one is known. A last one is
// followed by no older one.
func (r *replica[R]) see(e entry[R], last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tree == nil {
		return
	}
	if known, has := r.tree.Get(e); has && known.revision > e.revision {
		return
	}
	r.tree.ReplaceOrInsert(e)
	if e.absent && last {
		r.tree.Delete(e)
	}
}

// complete says that all records have been seen.
func (r *replica[R]) complete() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loaded = true
}

// all returns the records, in the order of their keys, and whether they are
// complete.
func (r *replica[R]) all() ([]R, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.loaded {
		return nil, false
	}
	records := make([]R, 0, r.tree.Len())
	r.tree.Ascend(func(e entry[R]) bool {
		if !e.absent {
			records = append(records, e.record)
		}
		return true
	})
	return records, true
}

// Follow keeps a copy of all records in memory until ctx ends, and returns nil
// then. All answers from it meanwhile, and from etcd while the copy is being made.
func (s *Store[T, R]) Follow(ctx context.Context) error {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = longestPause
	defer s.replica.end()
	for {
		if err := s.follow(ctx, pause); ctx.Err() != nil || err == nil {
			return nil // the end of ctx is how it ends
		}
		s.replica.end()
		select {
		case <-time.After(pause.NextBackOff()):
		case <-ctx.Done():
			return nil
		}
	}
}

// follow returns when something breaks. Whoever calls All is told by etcd's own
// errors then.
func (s *Store[T, R]) follow(ctx context.Context, pause *backoff.ExponentialBackOff) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	s.replica.begin()
	response, err := s.client.Get(ctx, s.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	for _, kv := range response.Kvs {
		if err := s.saw(kv, false); err != nil {
			return err
		}
	}
	s.replica.complete()
	pause.Reset()
	for told := range s.client.Watch(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithRev(response.Header.Revision+1)) {
		if err := told.Err(); err != nil {
			return err
		}
		for _, event := range told.Events {
			if err := s.saw(event.Kv, event.Type == mvccpb.DELETE); err != nil {
				return err
			}
		}
	}
	return errWatchEnded
}

// saw takes what etcd tells, in its order.
func (s *Store[T, R]) saw(kv *mvccpb.KeyValue, absent bool) error {
	e := entry[R]{key: strings.TrimPrefix(string(kv.Key), s.prefix), revision: kv.ModRevision, absent: absent}
	if !absent {
		var err error
		if e.record, err = decode[T, R](kv.Key, kv.Value, kv.ModRevision); err != nil {
			return err
		}
	}
	s.replica.see(e, true)
	return nil
}

// wrote takes what this process wrote; the caller keeps record, so the copy has
// one of its own.
func (s *Store[T, R]) wrote(key string, text []byte, revision int64) error {
	record, err := decode[T, R]([]byte(key), text, revision)
	if err != nil {
		return err
	}
	s.replica.see(entry[R]{key: key, revision: revision, record: record}, false)
	return nil
}
