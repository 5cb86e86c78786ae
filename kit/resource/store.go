package resource

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"orlop.dev/kit/fault"
)

// store is a collection's place in etcd:
//
//	<prefix>/store                            identity of the store
//	<prefix>/<plural>/objects/<namespace>/<name>
//	<prefix>/<plural>/requests/<request id>   answers to repeat, with a lease
type store struct {
	client   *clientv3.Client
	identity string
	objects  string
	requests string
}

func newStore(client *clientv3.Client, prefix, plural string) store {
	prefix = strings.TrimSuffix(prefix, "/")
	return store{
		client:   client,
		identity: prefix + "/store",
		objects:  prefix + "/" + plural + "/objects/",
		requests: prefix + "/" + plural + "/requests/",
	}
}

// identify returns the identity of the store, which the first to ask makes up.
func (s *store) identify(ctx context.Context) (string, error) {
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(s.identity), "=", 0)).
		Then(clientv3.OpPut(s.identity, strings.ToLower(rand.Text())), clientv3.OpGet(s.identity)).
		Else(clientv3.OpGet(s.identity)).
		Commit()
	if err != nil {
		return "", Unavailable(err)
	}
	last := resp.Responses[len(resp.Responses)-1].GetResponseRange()
	return string(last.Kvs[0].Value), nil
}

// revision is etcd's present one.
func (s *store) revision(ctx context.Context) (int64, error) {
	resp, err := s.client.Get(ctx, s.identity, clientv3.WithKeysOnly())
	if err != nil {
		return 0, Unavailable(err)
	}
	return resp.Header.Revision, nil
}

// Unavailable classifies an error of etcd's client. The end of the caller's own
// context stays what it is.
func Unavailable(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if status.Code(err) == codes.Canceled || status.Code(err) == codes.DeadlineExceeded {
		return fault.From(err)
	}
	return fault.Wrap(err, fault.Transient, ReasonUnavailable, "the store can't be reached")
}
