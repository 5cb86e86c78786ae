// Package garbage takes away what nobody needs from the registry's storage while
// the registry serves: blobs that no manifest names, manifests that no tag
// names, uploads that nobody goes on with, and what is left of repositories.
//
// It owns the question of what is needed, and the guard in front of the
// registry that keeps the answer true while it is acted upon. It knows the
// layout of the CNCF distribution's filesystem driver. It must not know what is
// in images; who needs a blob's file for long keeps a hard link of its own.
//
// A client pushes blobs before the manifest that names them. The link of a blob
// in a repository is therefore a claim: a commit, a mount and a HEAD renew it,
// for Options.Grace; the manifest that the claim was for ends it, and from then
// on the manifest alone holds the blob. Claims are times of files, so they
// survive a restart.
package garbage

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// DefaultGrace is how long a blob waits for its manifest.
	DefaultGrace = time.Hour
	// DefaultUploadAge is how long an upload waits for its next bytes.
	DefaultUploadAge = 24 * time.Hour
	// DefaultInterval lies between two collections that nobody asked for.
	DefaultInterval = 10 * time.Minute

	// first leaves clients time to come back after a restart.
	first = time.Minute
	// together is how long a deletion waits for others, so that one collection
	// serves them all.
	together = time.Second
)

// Options say what is collected. Zero fields but Dir take their default.
type Options struct {
	// Dir is the root directory of the registry's filesystem driver.
	Dir string
	// Trash is a directory on the same file system, the collector's alone.
	Trash string
	// Grace is how long a blob, or a manifest pushed by digest, may wait for the
	// manifest or the tag that will name it.
	Grace time.Duration
	// UploadAge is how long an upload may rest.
	UploadAge time.Duration
	// Interval lies between two collections that no deletion asked for.
	Interval time.Duration
	// Now is the clock that files' times are held against.
	Now func() time.Time
	// Metrics is where counters are registered; nil for nowhere.
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Grace <= 0 {
		o.Grace = DefaultGrace
	}
	if o.UploadAge <= 0 {
		o.UploadAge = DefaultUploadAge
	}
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Collector collects. Its Guard must stand before the registry as long as it
// does.
type Collector struct {
	options Options
	layout  layout
	gate    *gate
	wake    chan struct{}
	metrics *metrics
}

// New makes a collector. Nothing is touched before Run or Collect.
func New(o Options) (*Collector, error) {
	if o.Dir == "" || o.Trash == "" {
		return nil, errors.New("garbage: Dir and Trash are required")
	}
	o = o.withDefaults()
	counted, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, err
	}
	return &Collector{
		options: o, layout: newLayout(o.Dir), gate: newGate(),
		wake: make(chan struct{}, 1), metrics: counted,
	}, nil
}

// Guard returns the registry's handler with what keeps the collector off of what
// requests need. A request waits for the collector no longer than a rename takes.
func (c *Collector) Guard(registry http.Handler) http.Handler {
	return &guard{collector: c, registry: registry}
}

// Run collects soon after deletions, and from time to time, until ctx ends. It
// blocks. A collection that fails is logged and tried again with the next.
func (c *Collector) Run(ctx context.Context) {
	next := time.NewTimer(first)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		case <-c.wake:
			if !pause(ctx, together) {
				return
			}
		}
		report, err := c.Collect(ctx)
		if err != nil && ctx.Err() == nil {
			c.options.Logger.Error("the registry's garbage can't be collected", "error", err)
		}
		if report.any() {
			c.options.Logger.Info("collected the registry's garbage", "collected", report)
		}
		next.Reset(c.options.Interval)
	}
}

// soon asks Run for a collection.
func (c *Collector) soon() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Collect collects once, and returns what it took. It may be killed at any
// point: what needs a thing always goes before the thing, and the next Collect
// goes on. One Collect at a time.
func (c *Collector) Collect(ctx context.Context) (Report, error) {
	began := time.Now()
	c.gate.watch()
	defer c.gate.rest()
	found, err := c.find(ctx)
	if err != nil {
		return Report{}, err
	}
	s := &sweep{layout: c.layout, gate: c.gate, trash: c.options.Trash}
	err = s.all(ctx, found)
	// Also what an earlier process has left there.
	err = errors.Join(err, os.RemoveAll(c.options.Trash))
	s.report.Took = time.Since(began)
	c.metrics.add(s.report)
	return s.report, err
}
