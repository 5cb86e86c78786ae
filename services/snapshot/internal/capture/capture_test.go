package capture_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/uuid"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/snapshot/internal/capture"
)

// errKilled is what a call gets during which the process is killed.
var errKilled = errors.New("killed")

// passes bound how often a capture is taken up again.
const passes = 50

// world is the disk service and the vm service, with two disks and one VM, in
// memory. The records are in a real etcd.
type world struct {
	diskv1.DiskFreezeServiceClient
	vmv1.GuestDiskServiceClient

	t        *testing.T
	capturer *capture.Capturer
	token    string
	disks    []capture.Disk

	running bool
	restful bool // has an agent
	// begun are layers that are being made, done those that are; moved says that the
	// guest writes to the files above them.
	begun, done map[string]bool
	moved       bool
	memory      map[string]bool
	forgetful   bool // keeps no memory
	calls       int
	killed      int
	effect      bool
}

func newWorld(t *testing.T, client *clientv3.Client) *world {
	w := &world{
		t: t, token: uuid.NewString(), running: true, restful: true,
		begun: map[string]bool{}, done: map[string]bool{}, memory: map[string]bool{},
	}
	w.capturer = capture.New(client, "/"+uuid.NewString(), w, w)
	for _, name := range []string{"root", "data"} {
		w.disks = append(w.disks, capture.Disk{Namespace: "default", Name: name, UID: "of-" + name, ID: uuid.NewString()})
	}
	return w
}

// call runs what a call does, unless the process is killed in it.
func (w *world) call(do func() error) error {
	w.calls++
	if w.calls != w.killed {
		return do()
	}
	if w.effect {
		_ = do()
	}
	return errKilled
}

func (w *world) BeginDiskFreeze(_ context.Context, r *diskv1.BeginDiskFreezeRequest, _ ...grpc.CallOption) (*diskv1.DiskFreeze, error) {
	freeze := &diskv1.DiskFreeze{Path: "/above/" + r.GetName(), Format: "qcow2", StorageClassName: "local", Frozen: w.done[r.GetLayer()]}
	if w.running {
		freeze.Holder = &metav1.Holder{Kind: "VirtualMachine", Namespace: "default", Name: "web", Uid: "web"}
	}
	return freeze, w.call(func() error { w.begun[r.GetLayer()] = true; return nil })
}

func (w *world) EndDiskFreeze(_ context.Context, r *diskv1.EndDiskFreezeRequest, _ ...grpc.CallOption) (*diskv1.DiskFreeze, error) {
	return &diskv1.DiskFreeze{VirtualBytes: 1 << 30}, w.call(func() error {
		if !w.begun[r.GetLayer()] || w.running && !w.moved {
			w.t.Errorf("%s is a snapshot, and the guest writes to it", r.GetName())
		}
		w.done[r.GetLayer()] = true
		return nil
	})
}

func (w *world) GetFrozenLayer(_ context.Context, r *diskv1.GetFrozenLayerRequest, _ ...grpc.CallOption) (*diskv1.FrozenLayer, error) {
	if !w.begun[r.GetLayer()] {
		return nil, fault.New(fault.NotFound, "NotFound", "no layer")
	}
	return &diskv1.FrozenLayer{Frozen: w.done[r.GetLayer()]}, nil
}

func (w *world) DropFrozenLayer(_ context.Context, r *diskv1.DropFrozenLayerRequest, _ ...grpc.CallOption) (*diskv1.DropFrozenLayerResponse, error) {
	return nil, w.call(func() error {
		delete(w.begun, r.GetLayer())
		delete(w.done, r.GetLayer())
		return nil
	})
}

func (w *world) SwitchGuestDisks(_ context.Context, r *vmv1.SwitchGuestDisksRequest, _ ...grpc.CallOption) (*vmv1.SwitchGuestDisksResponse, error) {
	if r.GetRest() == vmv1.GuestRest_Required && !w.restful {
		return nil, fault.New(fault.NotReady, "PotentiallyInconsistent", "no agent")
	}
	err := w.call(func() error {
		w.moved = true
		w.memory[r.GetToken()] = r.GetMemory() && !w.forgetful
		return nil
	})
	return &vmv1.SwitchGuestDisksResponse{
		Running: w.running, AtRest: w.restful && r.GetRest() != vmv1.GuestRest_None, Memory: w.memory[r.GetToken()],
	}, err
}

func (w *world) DropGuestMemory(_ context.Context, r *vmv1.DropGuestMemoryRequest, _ ...grpc.CallOption) (*vmv1.DropGuestMemoryResponse, error) {
	return nil, w.call(func() error { delete(w.memory, r.GetToken()); return nil })
}

// takes goes on with the capture until it is done, whatever is killed.
func (w *world) takes(rest vmv1.GuestRest_Value, memory bool) {
	w.t.Helper()
	for range passes {
		err := w.capturer.Begin(w.t.Context(), w.token, w.disks, memory)
		if err == nil {
			err = w.capturer.Take(w.t.Context(), w.token, rest)
		}
		if err == nil {
			return
		}
		if !errors.Is(err, errKilled) {
			w.t.Fatal(err)
		}
	}
	w.t.Fatal("it does not end")
}

// want says what every disk's record is to be.
func (w *world) want(want capture.Taken) {
	w.t.Helper()
	for _, disk := range w.disks {
		taken, err := w.capturer.Taken(w.t.Context(), disk.ID)
		if err != nil || taken == nil {
			w.t.Fatalf("%s is %v, %v", disk.Name, taken, err)
		}
		want.Version, want.VirtualBytes, want.StorageClass = taken.Version, 1<<30, "local"
		if *taken != want {
			w.t.Errorf("%s is %+v, want %+v", disk.Name, *taken, want)
		}
	}
	if begun, err := w.capturer.Begun(w.t.Context(), w.token); err != nil || begun {
		w.t.Errorf("it goes on: %t, %v", begun, err)
	}
}

func TestDisksAreTakenTogether(t *testing.T) {
	client := etcdtest.Start(t)
	for name, test := range map[string]struct {
		change func(*world)
		rest   vmv1.GuestRest_Value
		memory bool
		want   capture.Taken
	}{
		"without a VM":             {func(w *world) { w.running = false }, vmv1.GuestRest_Required, true, capture.Taken{Consistent: true}},
		"of a guest":               {func(*world) {}, vmv1.GuestRest_Required, false, capture.Taken{Consistent: true}},
		"of a guest without agent": {func(w *world) { w.restful = false }, vmv1.GuestRest_IfPossible, false, capture.Taken{}},
		"with memory":              {func(*world) {}, vmv1.GuestRest_Required, true, capture.Taken{Consistent: true, Memory: "token"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, client)
			test.change(w)
			w.takes(test.rest, test.memory)
			if test.want.Memory != "" {
				test.want.Memory = w.token
			}
			w.want(test.want)
		})
	}
}

// A switch that was done earlier has no memory of that moment.
func TestMemoryThatWasNotKeptIsToldToBeLost(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.moved, w.forgetful = true, true
	w.takes(vmv1.GuestRest_Required, true)
	w.want(capture.Taken{Consistent: true, MemoryLost: true})
}

func TestAGuestThatCannotRestIsLeftAlone(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.restful = false
	if err := w.capturer.Begin(t.Context(), w.token, w.disks, false); err != nil {
		t.Fatal(err)
	}
	if err := w.capturer.Take(t.Context(), w.token, vmv1.GuestRest_Required); !fault.Is(err, fault.NotReady) || w.moved {
		t.Errorf("got %v, and the guest has moved: %t", err, w.moved)
	}
}

// The process is killed in each call, before and after its effect, and the next
// one goes on; or it is told that nobody wants the capture any more.
func TestACaptureThatIsKilledAnywhereEnds(t *testing.T) {
	client := etcdtest.Start(t)
	whole := newWorld(t, client)
	whole.takes(vmv1.GuestRest_Required, true)
	for _, effect := range []bool{false, true} {
		for killed := range whole.calls {
			t.Run(fmt.Sprintf("call %d, effect %t", killed+1, effect), func(t *testing.T) {
				w := newWorld(t, client)
				w.killed, w.effect = killed+1, effect
				w.takes(vmv1.GuestRest_Required, true)
				w.want(capture.Taken{Consistent: true, Memory: w.token})

				unwanted := newWorld(t, client)
				unwanted.killed, unwanted.effect = killed+1, effect
				if err := unwanted.capturer.Begin(t.Context(), unwanted.token, unwanted.disks, true); err != nil {
					t.Fatal(err)
				}
				if err := unwanted.capturer.Take(t.Context(), unwanted.token, vmv1.GuestRest_Required); !errors.Is(err, errKilled) {
					t.Fatalf("it was not killed: %v", err)
				}
				unwanted.abandons()
			})
		}
	}
}

func (w *world) abandons() {
	w.t.Helper()
	for range 2 {
		if err := w.capturer.Abandon(w.t.Context(), w.token, w.disks[0].ID, w.disks[1].ID); err != nil {
			w.t.Fatal(err)
		}
	}
	begun, err := w.capturer.Begun(w.t.Context(), w.token)
	if err != nil || begun || len(w.begun) > 0 || len(w.memory) > 0 {
		w.t.Errorf("it goes on: %t, layers %v, memory %v, %v", begun, w.begun, w.memory, err)
	}
}
