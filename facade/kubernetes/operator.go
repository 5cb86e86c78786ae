// Package kubernetes is the door for kubectl: it keeps custom resources and the
// services' objects alike, asks the services at admission, and publishes what
// a cluster would have.
//
// It goes by descriptors and names no kind that Orlop defines. It must not know
// how a service does what it does.
package kubernetes

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"orlop.dev/facade/kubernetes/internal/admission"
	"orlop.dev/facade/kubernetes/internal/install"
	"orlop.dev/facade/kubernetes/internal/native"
	"orlop.dev/facade/kubernetes/internal/twin"
	"orlop.dev/gen/crd"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
)

const (
	webhookPath  = "/admit/"
	evictionPath = "/evict/"
	defaultPath  = "/default/"
	// workers is how many objects of one kind are compared at once.
	workers = 4
	// retryMin and retryMax bound the pauses between failures of one object. The
	// library's own maximum is a quarter of an hour.
	retryMin = 100 * time.Millisecond
	retryMax = 30 * time.Second
)

// Options say where the API server and the services are.
type Options struct {
	// REST reaches the API server, as a user that may do everything with the
	// kinds, roles, webhooks, events, nodes, pods and storage classes.
	REST *rest.Config
	// User is REST's user name: the webhook is not asked about its writes.
	User string
	// Connect returns the connection to the service of a kind.
	Connect func(*kind.Kind) (grpc.ClientConnInterface, error)
	// Listen is the address of the admission webhook.
	Listen string
	// Certificate is the webhook's, and CABundle (PEM) verifies it.
	Certificate tls.Certificate
	CABundle    []byte
	// URL is how the API server reaches Listen: https://127.0.0.1:18446.
	URL string
	// WebhookSecret is a part of the webhook's path that only the API server is
	// told; a random one where it is empty. Replicas share one.
	WebhookSecret string
	// Publish makes Node, StorageClass, VolumeSnapshotClass and Pod objects, which
	// no cluster has made.
	Publish bool
	// NodeExternalIP is where this machine's users find node ports: shown by the
	// Nodes that are published, if it is valid.
	NodeExternalIP netip.Addr
	// LeaderElection, by a Lease in this namespace; none where it is empty.
	LeaderElection string
	Logger         *slog.Logger
}

// Validate reports what is missing.
func (o Options) Validate() error {
	var problems []error
	if o.REST == nil {
		problems = append(problems, errors.New("option REST is required"))
	}
	if o.Connect == nil {
		problems = append(problems, errors.New("option Connect is required"))
	}
	if _, _, err := net.SplitHostPort(o.Listen); err != nil {
		problems = append(problems, fmt.Errorf("option Listen: %w", err))
	}
	return errors.Join(problems...)
}

// Operator is the kubectl door.
type Operator struct {
	opts        Options
	definitions []*apiextensions.CustomResourceDefinition
	kinds       []*kind.Kind
	mirrors     twin.Mirrors
	feeds       map[schema.GroupVersionKind]*feed
}

// New prepares an operator for the kinds that are linked into the binary.
func New(opts Options) (*Operator, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	definitions, err := install.Definitions(crd.FS)
	if err != nil {
		return nil, err
	}
	if opts.WebhookSecret == "" {
		opts.WebhookSecret = rand.Text()
	}
	o := &Operator{
		opts: opts, definitions: definitions,
		mirrors: twin.Mirrors{}, feeds: map[schema.GroupVersionKind]*feed{},
	}
	for _, k := range kind.All() {
		if err := o.addKind(k); err != nil {
			return nil, fmt.Errorf("kind %s: %w", k, err)
		}
	}
	return o, nil
}

func (o *Operator) addKind(k *kind.Kind) error {
	conn, err := o.opts.Connect(k)
	if err != nil {
		return err
	}
	remote, err := resource.NewClient[resource.Object](conn, k)
	if err != nil {
		return err
	}
	feed := newFeed()
	mirror := resource.NewMirror(remote, resource.MirrorOptions[resource.Object]{
		Handler: feed.handle, Logger: o.opts.Logger,
	})
	feed.missed = func() []resource.Object { return mirror.List("", nil) }
	o.kinds = append(o.kinds, k)
	o.mirrors[gvkOf(k)] = mirror
	o.feeds[gvkOf(k)] = feed
	return nil
}

// Install puts definitions, roles and the webhook into the API server, and
// blocks until the kinds are served. Idempotent.
func (o *Operator) Install(ctx context.Context) error {
	c, err := client.New(o.opts.REST, client.Options{Scheme: scheme()})
	if err != nil {
		return err
	}
	if err := install.ApplyDefinitions(ctx, c, o.definitions); err != nil {
		return err
	}
	if o.opts.Publish {
		further, err := install.Definitions(native.Definitions)
		if err == nil {
			err = install.ApplyDefinitions(ctx, c, further)
		}
		if err != nil {
			return err
		}
	}
	if err := install.ApplyRoles(ctx, c, o.definitions); err != nil {
		return err
	}
	hook := install.Webhook{
		URL: o.opts.URL + o.webhookPath(), DefaultURL: o.opts.URL + o.defaultPath(), CABundle: o.opts.CABundle, Exempt: o.opts.User,
	}
	if o.opts.Publish {
		hook.EvictionURL = o.opts.URL + o.evictionPath()
	}
	defaulted := install.Defaulted{}
	for _, k := range o.kinds {
		defaulted[k.Name] = k.Defaulted()
	}
	return install.ApplyWebhook(ctx, c, hook, o.definitions, defaulted)
}

// Run keeps the door open until ctx ends.
func (o *Operator) Run(ctx context.Context) error {
	m, err := o.manager()
	if err != nil {
		return err
	}
	judge := admission.Handler{Kinds: map[schema.GroupVersionKind]admission.Kind{}}
	for _, k := range o.kinds {
		if err := o.addController(m, k); err != nil {
			return fmt.Errorf("kind %s: %w", k, err)
		}
		judge.Kinds[gvkOf(k)] = admission.Kind{
			Convert: twin.Converter(k), Client: o.mirrors[gvkOf(k)].Client(), Defaulted: k.Defaulted(),
		}
	}
	o.answer(m, o.webhookPath(), judge)
	o.answer(m, o.defaultPath(), admission.Defaulter{Handler: judge})

	group, ctx := errgroup.WithContext(ctx)
	for _, mirror := range o.mirrors {
		group.Go(func() error { return mirror.Run(ctx) })
	}
	for gvk, feed := range o.feeds {
		group.Go(func() error { return feed.followBeginnings(ctx, m.GetCache(), gvk) })
	}
	if o.opts.Publish {
		publishers, err := o.publish(m)
		if err != nil {
			return err
		}
		group.Go(func() error { return native.Run(ctx, o.opts.Logger, publishers...) })
	}
	group.Go(func() error { return m.Start(ctx) })
	return group.Wait()
}

func (o *Operator) manager() (manager.Manager, error) {
	host, port, err := net.SplitHostPort(o.opts.Listen)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("port of %s: %w", o.opts.Listen, err)
	}
	return ctrl.NewManager(o.opts.REST, manager.Options{
		Scheme: scheme(),
		Logger: logr.FromSlogHandler(o.opts.Logger.Handler()),
		// Custom resources are read as unstructured, and from the cache.
		Client:                  client.Options{Cache: &client.CacheOptions{Unstructured: true}},
		Metrics:                 metricsserver.Options{BindAddress: "0"},
		LeaderElection:          o.opts.LeaderElection != "",
		LeaderElectionNamespace: o.opts.LeaderElection,
		LeaderElectionID:        "orlop-facade",
		WebhookServer: webhook.NewServer(webhook.Options{
			Host: host, Port: number,
			TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.GetCertificate = o.certificate }},
		}),
	})
}

// certificate is what the webhook's listener shows; given so, the library looks
// for no files.
func (o *Operator) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &o.opts.Certificate, nil
}

func (o *Operator) addController(m manager.Manager, k *kind.Kind) error {
	cr := new(unstructured.Unstructured)
	cr.SetGroupVersionKind(gvkOf(k))
	return ctrl.NewControllerManagedBy(m).
		Named(k.Plural).
		For(cr).
		WatchesRawSource(o.feeds[gvkOf(k)]).
		WithOptions(controllerOptions()).
		Complete(twin.New(twin.Options{
			Kind: k, Kube: m.GetClient(), Mirrors: o.mirrors,
			//nolint:staticcheck // The newer events API has no place for an event without an action.
			Events: m.GetEventRecorderFor("orlop"),
			Logger: o.opts.Logger,
		}))
}

func controllerOptions() controller.Options {
	skipNames := true // one process may run several operators, in tests
	// The library's queue of priorities may hang when it is shut down (its issue
	// 3538, in 0.23), and nothing here has a priority.
	priorities := false
	return controller.Options{
		MaxConcurrentReconciles: workers, SkipNameValidation: &skipNames, UsePriorityQueue: &priorities,
		RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](retryMin, retryMax),
	}
}

// answer has a handler answer what the API server asks at a path.
func (o *Operator) answer(m manager.Manager, path string, handler webhook.AdmissionHandler) {
	m.GetWebhookServer().Register(path, &webhook.Admission{
		Handler:        handler,
		LogConstructor: func(logr.Logger, *webhook.AdmissionRequest) logr.Logger { return m.GetLogger() },
	})
}

// webhookPath is where only the API server knows to ask: an AdmissionReview
// carries no credential of its own, and says itself for whom it speaks.
func (o *Operator) webhookPath() string { return webhookPath + o.opts.WebhookSecret }

func (o *Operator) evictionPath() string { return evictionPath + o.opts.WebhookSecret }

func (o *Operator) defaultPath() string { return defaultPath + o.opts.WebhookSecret }

func gvkOf(k *kind.Kind) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Name}
}

func scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, apiextensions.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // the same types can't be registered twice
		}
	}
	return s
}
