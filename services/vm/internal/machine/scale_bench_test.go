package machine_test

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"orlop.dev/gen/crd"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/reconcile"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/schema"
	"orlop.dev/services/vm/internal/machine"
	"orlop.dev/services/vm/internal/machine/machinetest"
	"orlop.dev/services/vm/internal/node"
	"orlop.dev/services/vm/internal/placement"
	"orlop.dev/services/vm/internal/power"
)

const (
	crowdSize      = 10_000
	crowdWriters   = 16
	crowdNodeCount = 100
)

// BenchmarkTenThousandMachines makes VMs whose guests, disks and addresses exist
// in memory only; objects and records are in a durable etcd. It tells how quickly
// they are made and run, what reads of them take, what they cost in memory and
// writes, and how long a service that starts takes to look at all of them.
func BenchmarkTenThousandMachines(b *testing.B) {
	for range b.N {
		c := newCrowd(b)
		stop := c.start(b)
		began := time.Now()
		c.create(b)
		b.ReportMetric(crowdSize/time.Since(began).Seconds(), "creates/s")
		writes := c.allRun(b)
		b.ReportMetric(crowdSize/time.Since(began).Seconds(), "running/s")
		b.ReportMetric(float64(writes)/crowdSize, "writes/VM")
		b.ReportMetric(float64(heapBytes()-c.heapBefore)/(1<<20), "MiB")
		c.read(b)
		stop()
		began = time.Now()
		c.open(b)
		stop = c.start(b)
		c.allSeen(b)
		b.ReportMetric(time.Since(began).Seconds(), "s/resync")
		stop()
	}
}

// crowd is the vm service but for its doors, and peers that have all that a VM
// asks for.
type crowd struct {
	etcd       *clientv3.Client
	machines   *resource.Collection[*vmv1.VirtualMachine]
	loop       *reconcile.Loop[*vmv1.VirtualMachine]
	records    *power.Store
	engine     *machinetest.Engine
	heapBefore int64

	mu   sync.Mutex
	held map[string]bool // by UID: who has disk and address
	seen map[string]bool // by UID: whom the engine was asked about
}

const crowdPrefix = "/crowd"

func newCrowd(b *testing.B) *crowd {
	c := &crowd{etcd: etcdtest.Start(b, etcdtest.Durable), engine: new(machinetest.Engine), held: map[string]bool{}}
	c.open(b)
	c.heapBefore = heapBytes()
	return c
}

// open makes what a process of the service has.
func (c *crowd) open(b *testing.B) {
	b.Helper()
	k := kind.Must(&vmv1.VirtualMachine{})
	rules, err := schema.Find(crd.FS, k)
	check(b, err)
	quiet := slog.New(slog.DiscardHandler)
	c.machines, err = resource.NewCollection[*vmv1.VirtualMachine](c.etcd, crowdPrefix, k, resource.Options{Schema: rules, Logger: quiet})
	check(b, err)
	c.records = power.NewStore(c.etcd, crowdPrefix)
	room := node.Demand{MilliCPU: 1000 * crowdSize, MemoryBytes: 4 * gib * crowdSize}
	nodes := node.Simulate(crowdNodes(), room)
	survey := &placement.Survey{
		Nodes: func(context.Context) ([]node.Node, error) { return nodes, nil }, Class: c.Class, Power: c.records,
		Machines: func(visit func(*vmv1.VirtualMachine)) error { return c.machines.Each("", visit) },
	}
	c.seen = map[string]bool{}
	reconciler := &machine.Reconciler{
		Classes: c, Devices: c, Addresses: crowdIPs(), MACs: crowdMACs(), Attachments: c, NonVolatile: c, Engine: crowdEngine{c.engine, c},
		Overhead: func(*vmv1.VirtualMachineSpec) int64 { return 100 << 20 }, Power: c.records, Survey: survey, Now: time.Now,
	}
	c.loop = reconcile.New(c.machines, reconciler, reconcile.Options{Name: "machines", Workers: 4, Logger: quiet})
}

func crowdNodes() []string {
	names := make([]string, crowdNodeCount)
	for i := range names {
		names[i] = fmt.Sprintf("node-%d", i+1)
	}
	return names
}

// start runs the service until stop.
func (c *crowd) start(b *testing.B) (stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.machines.Run(ctx) })
	group.Go(func() error { return c.records.Follow(ctx) })
	group.Go(func() error { return c.loop.Run(ctx) })
	check(b, c.machines.WaitSynced(ctx))
	return func() {
		cancel()
		check(b, group.Wait())
	}
}

func crowdName(i int64) string { return fmt.Sprintf("vm-%05d", i) }

func (c *crowd) create(b *testing.B) {
	b.Helper()
	var next atomic.Int64
	group, ctx := errgroup.WithContext(b.Context())
	for range crowdWriters {
		group.Go(func() error {
			for i := next.Add(1); i <= crowdSize; i = next.Add(1) {
				vm := newMachine(crowdName(i))
				vm.Metadata = &metav1.ObjectMeta{Namespace: "default", Name: crowdName(i)}
				if _, err := c.machines.Create(ctx, vm); err != nil {
					return err
				}
			}
			return nil
		})
	}
	check(b, group.Wait())
}

// allRun waits until every VM runs, and returns how often they were written.
func (c *crowd) allRun(b *testing.B) (writes int) {
	b.Helper()
	running := map[string]bool{}
	for event, err := range c.machines.Watch(b.Context(), resource.WatchOptions{}) {
		check(b, err)
		vm := event.Object
		if event.Type != resource.Bookmark && vm.GetStatus().GetPhase() == vmv1.VirtualMachinePhase_Running {
			running[vm.GetMetadata().GetName()] = true
		}
		if len(running) == crowdSize {
			break
		}
	}
	response, err := c.etcd.Get(b.Context(), crowdPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	check(b, err)
	for _, kv := range response.Kvs {
		writes += int(kv.Version)
	}
	return writes
}

// allSeen waits until the engine was asked about every VM.
func (c *crowd) allSeen(b *testing.B) {
	b.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for seen := 0; seen < crowdSize; <-tick.C {
		c.mu.Lock()
		seen = len(c.seen)
		c.mu.Unlock()
	}
}

// read reports what the slowest hundredth of reads takes.
func (c *crowd) read(b *testing.B) {
	b.Helper()
	const gets, lists = 10_000, 200
	took := make([]time.Duration, 0, gets)
	for i := range int64(gets) {
		began := time.Now()
		_, err := c.machines.Get(resource.Key{Namespace: "default", Name: crowdName(i%crowdSize + 1)})
		check(b, err)
		took = append(took, time.Since(began))
	}
	b.ReportMetric(float64(late(took).Nanoseconds()), "ns/get-p99")
	took = took[:0]
	for range lists {
		began := time.Now()
		_, err := c.machines.List(b.Context(), resource.ListOptions{Namespace: "default", PageSize: 500})
		check(b, err)
		took = append(took, time.Since(began))
	}
	b.ReportMetric(late(took).Seconds()*1000, "ms/list-of-500-p99")
}

// late is the 99th percentile.
func late(took []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(took))[len(took)*99/100]
}

func heapBytes() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Class implements machine.Classes.
func (c *crowd) Class(string) (*vmv1.VirtualMachineClass, bool) {
	return &vmv1.VirtualMachineClass{
		Metadata: &metav1.ObjectMeta{Name: "generic"}, Spec: &vmv1.VirtualMachineClassSpec{},
		Status: &vmv1.VirtualMachineClassStatus{Phase: vmv1.ClassPhase_Ready},
	}, true
}

// Of implements machine.Attachments.
func (c *crowd) Of(*vmv1.VirtualMachine) []machine.Attachment { return nil }

// Discard implements machine.NonVolatile.
func (c *crowd) Discard(context.Context, string) error { return nil }

// State implements machine.Devices.
func (c *crowd) State(*vmv1.BlockDeviceRef, string) machine.DeviceState {
	return machine.DeviceState{Found: true, Ready: true, Size: "1Gi", Phase: "Ready"}
}

// Claim implements machine.Devices.
func (c *crowd) Claim(_ context.Context, ref *vmv1.BlockDeviceRef, holder *metav1.Holder) (machine.Device, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[holder.GetUid()] = holder.GetActive()
	return machine.Device{ID: machine.DeviceID(ref), Path: "/disks/root", Format: "qcow2"}, nil
}

// Release implements machine.Devices.
func (c *crowd) Release(_ context.Context, _ *vmv1.BlockDeviceRef, holder *metav1.Holder) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, holder.GetUid())
	return nil
}

// Held implements machine.Devices.
func (c *crowd) Held(holder *metav1.Holder) []machine.HeldDevice {
	c.mu.Lock()
	defer c.mu.Unlock()
	active, held := c.held[holder.GetUid()]
	if !held {
		return nil
	}
	return []machine.HeldDevice{{Ref: &vmv1.BlockDeviceRef{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: "root"}, Active: active}}
}

// crowdAddresses gives every VM an address.
type crowdAddresses[T resource.Object] struct {
	of func(*metav1.ObjectMeta) T
}

func crowdIPs() crowdAddresses[*networkv1.VirtualMachineIPAddress] {
	status := &networkv1.VirtualMachineIPAddressStatus{Phase: networkv1.IPAddressPhase_Bound, Address: "10.66.10.10"}
	return crowdAddresses[*networkv1.VirtualMachineIPAddress]{func(meta *metav1.ObjectMeta) *networkv1.VirtualMachineIPAddress {
		return &networkv1.VirtualMachineIPAddress{Metadata: meta, Status: status}
	}}
}

func crowdMACs() crowdAddresses[*networkv1.VirtualMachineMACAddress] {
	status := &networkv1.VirtualMachineMACAddressStatus{Phase: networkv1.IPAddressPhase_Bound, Address: "02:00:00:00:00:01"}
	return crowdAddresses[*networkv1.VirtualMachineMACAddress]{func(meta *metav1.ObjectMeta) *networkv1.VirtualMachineMACAddress {
		return &networkv1.VirtualMachineMACAddress{Metadata: meta, Status: status}
	}}
}

func (c crowdAddresses[T]) Find(vm *vmv1.VirtualMachine, _ string) T {
	return c.of(&metav1.ObjectMeta{Namespace: "default", Name: vm.GetMetadata().GetName(), Uid: vm.GetMetadata().GetUid()})
}

func (crowdAddresses[T]) Claim(context.Context, T, *metav1.Holder) (*networkv1.Port, error) {
	return &networkv1.Port{MacAddress: "02:00:00:00:00:01", Address: "10.66.10.10/24"}, nil
}

func (crowdAddresses[T]) Release(context.Context, T, *metav1.Holder) error { return nil }

func (crowdAddresses[T]) Held(*metav1.Holder) []T { return nil }

// crowdEngine notes who was asked about.
type crowdEngine struct {
	machine.Engine
	crowd *crowd
}

func (e crowdEngine) Look(ctx context.Context, uid string) (machine.Sight, error) {
	e.crowd.mu.Lock()
	e.crowd.seen[uid] = true
	e.crowd.mu.Unlock()
	return e.Engine.Look(ctx, uid)
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
