// Package local runs all of Orlop on one machine, in one process: etcd, DVCR,
// the services, the REST gateway, and a Kubernetes API with its facade.
//
// It wires, in an order, and nothing more. Guests are not its children: they
// live on when it ends.
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"orlop.dev/facade/home"
	facade "orlop.dev/facade/kubernetes"
)

// Run starts everything, serves until ctx ends or a part fails, and stops
// everything but the guests. It blocks. The state folder tells how far it is
// (home.ReadStatus).
//
// It can be killed at any point: the next Run goes on with what is there. The
// error is a *home.InUseError while another Run has the folder.
func Run(ctx context.Context, settings home.Settings, version string, logger *slog.Logger) (err error) {
	if err := settings.Validate(); err != nil {
		return err
	}
	h, err := home.Locate(settings.Home)
	if err != nil {
		return err
	}
	if err := h.Make(); err != nil {
		return err
	}
	lock, err := h.Lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()

	logger.Info("starting", "version", version, "settings", settings)
	d := &daemon{settings: settings, home: h, logger: logger, report: newReport(h, version, logger), metrics: newMetrics()}
	err = d.run(ctx)
	d.report.ended(err)
	return err
}

// newMetrics has what a process tells of itself; parts add their own.
func newMetrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// daemon is one Run.
type daemon struct {
	settings home.Settings
	home     home.Home
	logger   *slog.Logger
	report   *report
	stack    *stack
	metrics  *prometheus.Registry

	// What the steps leave for those after them, in their order.
	doors    *doors
	identity *identity
	store    *store
	images   *images
	cluster  *cluster // nil without a Kubernetes API
	peers    *peers
	operator *facade.Operator
	// gateway is this machine on the guests' network; invalid in user mode.
	gateway netip.Addr
	// reach connects to a guest.
	reach func(ctx context.Context, network, address string) (net.Conn, error)
}

// step is a part of the start. It says what came out of it, for people.
type step struct {
	name string
	do   func(context.Context) (detail string, err error)
}

// steps are in the order of what needs what.
func (d *daemon) steps() []step {
	steps := []step{
		{"ports and certificates", d.openDoors},
		{"etcd", d.startEtcd},
		{"DVCR (image registry)", d.startRegistry},
	}
	if d.wantsKubernetes() {
		steps = append(steps, step{"Kubernetes API", d.startKubernetes})
	}
	steps = append(steps,
		step{"services", d.startServices},
		step{"REST gateway", d.startGateway},
	)
	if d.wantsKubernetes() {
		steps = append(steps, step{"custom resources", d.installKinds}, step{"facade", d.startFacade})
	}
	if d.ownsKubernetes() {
		steps = append(steps, step{"Services among guests", d.startProxy}, step{"Services and Ingresses", d.startPublisher})
	}
	return append(steps, step{"doors", d.announce})
}

func (d *daemon) run(ctx context.Context) (err error) {
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.stack = newStack(ctx, cancel, d.logger)
	defer func() { err = errors.Join(err, d.stack.stop()) }()

	for _, s := range d.steps() {
		d.report.begin(s.name)
		detail, err := s.do(ctx)
		if err != nil {
			if asked.Err() != nil {
				return nil // it was told to end while it started
			}
			if cause := context.Cause(ctx); cause != nil {
				err = cause // what ended, rather than who noticed
			}
			return fmt.Errorf("%s: %w", s.name, err)
		}
		d.report.done(detail)
	}
	d.report.phase(home.Ready)
	<-ctx.Done()
	d.report.phase(home.Stopping)
	if asked.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

func (d *daemon) ownsKubernetes() bool { return d.wantsKubernetes() && d.settings.Kubeconfig == "" }

func (d *daemon) wantsKubernetes() bool {
	return d.settings.Kubeconfig != "" || d.settings.Kubernetes != home.KubernetesNone
}
