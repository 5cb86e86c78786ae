package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const (
	// DefaultLease is how long a replica that died keeps the others waiting.
	DefaultLease = 10 * time.Second
	// resignTimeout bounds the courtesy of leaving at once.
	resignTimeout = 2 * time.Second
	campaignPause = time.Second
)

// Election lets one replica of a service work at a time.
type Election struct {
	// Client reaches the service's etcd.
	Client *clientv3.Client
	// Key is the same for all replicas: "/orlop/disk/election".
	Key string
	// Identity names this replica to people.
	Identity string
	// Lease is DefaultLease where it is 0; whole seconds count.
	Lease time.Duration
	// Logger is slog.Default() where it is nil.
	Logger *slog.Logger
}

// Run campaigns until ctx ends, and runs work while this replica is elected.
// The context of work ends with ctx or when the lease is lost; the replica
// campaigns again then, once work has returned. An error of work while it was
// elected is returned, and so is nil when ctx ended.
//
// A lease proves less than it seems to: a paused process may work on for a
// moment after another was elected. Writes are safe nevertheless, because the
// store compares versions.
func (e *Election) Run(ctx context.Context, work func(ctx context.Context) error) error {
	logger := e.Logger
	if logger == nil {
		logger = slog.Default()
	}
	logger = logger.With("election", e.Key, "identity", e.Identity)
	for {
		err := e.term(ctx, logger, work)
		var failed *workError
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // ctx ended
		case errors.As(err, &failed):
			return failed.err
		case err != nil:
			logger.Warn("campaign failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(campaignPause + rand.N(campaignPause)):
		}
	}
}

// workError tells a failure of the work from one of the campaign.
type workError struct{ err error }

func (e *workError) Error() string { return fmt.Sprintf("elected work: %v", e.err) }

// term is one campaign and, if it was won, the time in office.
func (e *Election) term(ctx context.Context, logger *slog.Logger, work func(context.Context) error) error {
	lease := e.Lease
	if lease == 0 {
		lease = DefaultLease
	}
	// The session outlives ctx, so that it can be given up in good order.
	sessionCtx, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	stopCampaign := context.AfterFunc(ctx, end)
	session, err := concurrency.NewSession(e.Client, concurrency.WithTTL(max(1, int(lease.Seconds()))), concurrency.WithContext(sessionCtx))
	if err != nil {
		return err
	}
	election := concurrency.NewElection(session, e.Key)
	if !stopCampaign() {
		return ctx.Err()
	}
	defer e.resign(session, election)
	campaign, stop := untilLost(ctx, session)
	defer stop()
	if err := election.Campaign(campaign, e.Identity); err != nil {
		return err
	}
	logger.Info("elected")
	err = work(campaign)
	if campaign.Err() != nil {
		logger.Info("no longer elected")
		return nil
	}
	if err != nil {
		return &workError{err: err}
	}
	return nil
}

// untilLost returns a context that ends with ctx or with the session's lease.
func untilLost(ctx context.Context, session *concurrency.Session) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-session.Done():
		case <-ctx.Done():
		}
		cancel()
	}()
	return ctx, cancel
}

// resign lets another replica in at once. Where it fails the lease runs out.
func (e *Election) resign(session *concurrency.Session, election *concurrency.Election) {
	ctx, cancel := context.WithTimeout(context.Background(), resignTimeout)
	defer cancel()
	_ = election.Resign(ctx)
	// Orphan stops the keep-alive; revoking is bounded, unlike Session.Close.
	session.Orphan()
	_, _ = e.Client.Revoke(ctx, session.Lease())
}
