package resource

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
)

const (
	// answerFor is how long the answer to a request is kept for its repetition.
	answerFor = 10 * time.Minute
	// leaseShared is how long writes share one lease. It adds to how long their
	// answers are kept, and saves a write to etcd each.
	leaseShared = time.Minute
)

// answer names a request whose answer is kept. It is written together with what
// the request changes: a request is never done twice, whoever dies in between.
type answer struct {
	id     string
	digest string // of the request, to refuse another one with the same id
}

// kept is an answer as it is stored.
type kept struct {
	Digest string `json:"digest"`
	Object []byte `json:"object"`
	// Version is the object's revision; 0 is that of the answer itself, which was
	// written together with it.
	Version int64 `json:"version,omitempty"`
}

// answerTo returns the answer to keep for a request: nil if it has no id.
func answerTo(method string, requestID string, req proto.Message) (*answer, error) {
	if requestID == "" {
		return nil, nil
	}
	if _, err := uuid.Parse(requestID); err != nil {
		return nil, fault.Refuse("request_id", "FieldValueInvalid", "must be a UUID")
	}
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, fault.ReasonInternal, "the request can't be encoded")
	}
	sum := sha256.Sum256(append([]byte(method+"\n"), body...))
	return &answer{id: requestID, digest: hex.EncodeToString(sum[:])}, nil
}

// record is the operation that keeps an answer.
func (c *Collection[T]) record(ctx context.Context, a *answer, object []byte, revision int64) (clientv3.Op, error) {
	value, err := json.Marshal(kept{Digest: a.digest, Object: object, Version: revision})
	if err != nil {
		return clientv3.Op{}, fmt.Errorf("answer: %w", err)
	}
	lease, err := c.leases.get(ctx)
	if err != nil {
		return clientv3.Op{}, Unavailable(err)
	}
	return clientv3.OpPut(c.store.requests+a.id, string(value), clientv3.WithLease(lease)), nil
}

// repeat returns the kept answer, false if there is none.
func (c *Collection[T]) repeat(ctx context.Context, a *answer) (T, bool, error) {
	var none T
	resp, err := c.store.client.Get(ctx, c.store.requests+a.id)
	if err != nil {
		return none, true, Unavailable(err)
	}
	if len(resp.Kvs) == 0 {
		return none, false, nil
	}
	var k kept
	if err := json.Unmarshal(resp.Kvs[0].Value, &k); err != nil {
		return none, true, fmt.Errorf("answer: %w", err)
	}
	if k.Digest != a.digest {
		return none, true, fault.Refuse("request_id", "FieldValueInvalid", "was used for another request")
	}
	if k.Version == 0 {
		k.Version = resp.Kvs[0].ModRevision
	}
	obj, err := c.unmarshal(k.Object, k.Version)
	return obj, true, err
}

// repeatOr is repeat, with an error for when there is nothing to repeat.
func (c *Collection[T]) repeatOr(ctx context.Context, a *answer, otherwise error) (T, error) {
	obj, found, err := c.repeat(ctx, a)
	if !found && err == nil {
		err = otherwise
	}
	return obj, err
}

// leases gives out a lease that lasts for at least answerFor.
type leases struct {
	client *clientv3.Client

	mu    sync.Mutex
	id    clientv3.LeaseID
	until time.Time // monotonic: when the next one must be taken
}

func (l *leases) get(ctx context.Context) (clientv3.LeaseID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id != clientv3.NoLease && time.Now().Before(l.until) {
		return l.id, nil
	}
	resp, err := l.client.Grant(ctx, int64((answerFor + leaseShared).Seconds()))
	if err != nil {
		return clientv3.NoLease, err
	}
	l.id, l.until = resp.ID, time.Now().Add(leaseShared)
	return l.id, nil
}

// forget drops a lease that etcd doesn't know any more.
func (l *leases) forget(err error) {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		l.mu.Lock()
		l.id = clientv3.NoLease
		l.mu.Unlock()
	}
}
