package reconcile_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	clocktesting "k8s.io/utils/clock/testing"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"

	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/kind"
)

const (
	patience  = time.Minute
	finalizer = "orlop.dev/test"
)

// world is a real collection with a loop over it, and a clock that stands still.
type world struct {
	t     *testing.T
	disks *resource.Collection[*diskv1.VirtualDisk]
	loop  *reconcile.Loop[*diskv1.VirtualDisk]
	clock *clocktesting.FakeClock
	steps chan string // name of each object that a step has begun for

	mu   sync.Mutex
	step func(*diskv1.VirtualDisk) (reconcile.Result, error)
}

func newWorld(t *testing.T, step func(*diskv1.VirtualDisk) (reconcile.Result, error)) *world {
	t.Helper()
	disks, err := resource.NewCollection[*diskv1.VirtualDisk](etcdtest.Start(t), "/test", kind.Must(&diskv1.VirtualDisk{}),
		resource.Options{Finalizers: []string{finalizer}})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, disks: disks, step: step, clock: clocktesting.NewFakeClock(time.Now()), steps: make(chan string, 1000)}
	w.loop = reconcile.New(disks, reconcile.Func[*diskv1.VirtualDisk](w.reconcile), reconcile.Options{
		Name: "test", Finalizer: finalizer, Workers: 1, Clock: w.clock,
	})
	w.run(disks.Run)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := disks.WaitSynced(ctx); err != nil {
		t.Fatal(err)
	}
	return w
}

// run runs f until the test ends, which it must do without an error.
func (w *world) run(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("ended with %v", err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

func (w *world) reconcile(_ context.Context, obj *diskv1.VirtualDisk) (reconcile.Result, error) {
	w.steps <- obj.GetMetadata().GetName()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.step(obj)
}

// become makes the steps from now on do what f says.
func (w *world) become(f func(*diskv1.VirtualDisk) (reconcile.Result, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.step = f
}

func (w *world) create(name string, change ...func(*metav1.ObjectMeta)) *diskv1.VirtualDisk {
	w.t.Helper()
	m := &metav1.ObjectMeta{Namespace: "ns", Name: name}
	for _, c := range change {
		c(m)
	}
	d, err := w.disks.Create(w.t.Context(), &diskv1.VirtualDisk{Metadata: m, Spec: &diskv1.VirtualDiskSpec{}})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func key(name string) resource.Key { return resource.Key{Namespace: "ns", Name: name} }

// awaitStep blocks until a step for the object begins.
func (w *world) awaitStep(name string) {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case got := <-w.steps:
			if got == name {
				return
			}
		case <-deadline:
			w.t.Fatalf("no step for %s", name)
		}
	}
}

// awaitDisk blocks until the object, or its absence (nil), is as wanted.
func (w *world) awaitDisk(name, what string, wanted func(*diskv1.VirtualDisk) bool) {
	w.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		d, err := w.disks.Get(key(name))
		if err != nil {
			d = nil
		}
		if wanted(d) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("%s is not %s: %v", name, what, d)
		}
	}
}

// stepsBefore creates an object and returns the steps that begin before its
// own: whatever was due by now. The one step that was under way has ended then.
func (w *world) stepsBefore(probe string) []string {
	w.t.Helper()
	w.create(probe)
	deadline := time.After(patience)
	var seen []string
	for {
		select {
		case got := <-w.steps:
			if got == probe {
				return seen
			}
			seen = append(seen, got)
		case <-deadline:
			w.t.Fatalf("no step for %s", probe)
		}
	}
}

func progress(phase diskv1.DiskPhase_Value, percent string) *diskv1.VirtualDiskStatus {
	return &diskv1.VirtualDiskStatus{Phase: phase, Progress: percent}
}

func result(status proto.Message, err error) func(*diskv1.VirtualDisk) (reconcile.Result, error) {
	return func(*diskv1.VirtualDisk) (reconcile.Result, error) { return reconcile.Result{Status: status}, err }
}
