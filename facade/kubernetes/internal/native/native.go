// Package native publishes, on one machine, the few objects of Kubernetes' own
// kinds that a cluster would have anyway: nodes and classes of storage. Each kind
// has one file. What it says comes from the services. What an administrator says
// there goes back to them: which storage class is the default; labels, taints and
// cordons of nodes; evictions of the Pods of VMs.
package native

import (
	"context"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	fieldOwner = client.FieldOwner("orlop-facade")
	// refresh is how often what is published is compared with what is there.
	// A node's heartbeat must be younger than the 40 s after which Kubernetes
	// would take it for dead.
	refresh = 15 * time.Second
	// managedLabel marks what this package made and may take away.
	managedLabel = "orlop.dev/published"
)

// Publisher writes objects of one kind.
type Publisher interface {
	// Publish brings all objects up to date. Idempotent.
	Publish(ctx context.Context) error
}

// Run publishes until ctx ends. A service that is down leaves its objects as
// they were.
func Run(ctx context.Context, logger *slog.Logger, publishers ...Publisher) error {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		for _, publisher := range publishers {
			if err := publisher.Publish(ctx); err != nil && ctx.Err() == nil {
				logger.WarnContext(ctx, "can't publish", "error", err)
			}
		}
	}, refresh)
	return nil
}

func apply(ctx context.Context, c client.Client, object client.Object) error {
	//nolint:staticcheck // The typed Apply needs generated configurations, which these types' users don't have.
	return c.Patch(ctx, object, client.Apply, fieldOwner, client.ForceOwnership)
}
