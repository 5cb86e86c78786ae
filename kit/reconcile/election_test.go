package reconcile_test

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource/etcdtest"
)

const electionKey = "/test/election"

// replica campaigns until stop is called.
type replica struct {
	elected chan struct{}
	lost    chan struct{}
	stop    context.CancelFunc
	done    chan error
}

func startReplica(t *testing.T, client *clientv3.Client, name string) *replica {
	ctx, cancel := context.WithCancel(context.Background())
	r := &replica{elected: make(chan struct{}), lost: make(chan struct{}), stop: cancel, done: make(chan error, 1)}
	e := &reconcile.Election{Client: client, Key: electionKey, Identity: name, Lease: 5 * time.Second}
	go func() {
		r.done <- e.Run(ctx, func(ctx context.Context) error {
			r.elected <- struct{}{}
			<-ctx.Done()
			select {
			case r.lost <- struct{}{}:
			case <-time.After(patience):
			}
			return ctx.Err()
		})
	}()
	t.Cleanup(cancel)
	return r
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("waited in vain for: %s", what)
	}
}

func TestOneReplicaWorksAndTheNextTakesOver(t *testing.T) {
	client := etcdtest.Start(t)
	first := startReplica(t, client, "first")
	await(t, first.elected, "the first replica's election")
	second := startReplica(t, client, "second")
	first.stop()
	select {
	case <-second.elected:
		t.Fatal("two replicas work at once")
	case <-first.lost:
	}
	if err := <-first.done; err != nil {
		t.Fatal(err)
	}
	await(t, second.elected, "the second replica's election")
	second.stop()
	await(t, second.lost, "the end of the second replica's work")
	if err := <-second.done; err != nil {
		t.Fatal(err)
	}
}

func TestALostLeaseStopsTheWorkAndBeginsAnotherCampaign(t *testing.T) {
	client := etcdtest.Start(t)
	r := startReplica(t, client, "only")
	await(t, r.elected, "the election")
	leases, err := client.Leases(t.Context())
	if err != nil || len(leases.Leases) != 1 {
		t.Fatalf("leases %v, %v", leases, err)
	}
	if _, err := client.Revoke(t.Context(), leases.Leases[0].ID); err != nil {
		t.Fatal(err)
	}
	await(t, r.lost, "the end of the work")
	await(t, r.elected, "another election")
	r.stop()
	await(t, r.lost, "the end of the work")
}

func TestAFailureOfTheWorkIsReturned(t *testing.T) {
	broken := errors.New("broken")
	e := &reconcile.Election{Client: etcdtest.Start(t), Key: electionKey, Identity: "only"}
	if err := e.Run(t.Context(), func(context.Context) error { return broken }); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
}
