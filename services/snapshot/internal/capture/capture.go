// Package capture takes what disks show at one moment: the disks of one VM
// together, at rest where that is wanted.
//
// It owns the order of the steps between the disk service, which puts empty files
// on top of the disks, and the vm service, which has the guest write to them; and
// what came of it. A process that is killed between any two steps goes on: each
// step can be repeated, and is. It must not know what the layers are for.
package capture

import (
	"context"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/record"
)

// guestPause is when to ask again for a guest that starts or ends.
const guestPause = time.Second

// Disk is a disk, and the layer that comes of it.
type Disk struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	// ID names what is taken: a UUID.
	ID string `json:"id"`
}

// LayerOf is the name, at the disk service, of what is taken under an ID.
func LayerOf(id string) string { return "snapshot-" + id }

// Taken is what was taken of one disk. It stays until Drop.
type Taken struct {
	record.Version

	// Consistent is a disk that was at rest.
	Consistent   bool   `json:"consistent,omitempty"`
	VirtualBytes int64  `json:"virtualBytes"`
	StorageClass string `json:"storageClass,omitempty"`
	// Memory is the token under which the guest's memory of that moment is kept;
	// MemoryLost is memory that was wanted and is not.
	Memory     string `json:"memory,omitempty"`
	MemoryLost bool   `json:"memoryLost,omitempty"`
}

// progress is how far a capture is.
type progress struct {
	record.Version

	Disks []Disk `json:"disks"`
	// Idle is a capture that found all disks without a running VM.
	Idle *bool `json:"idle,omitempty"`
	// Switched is set once what was running writes to the new files.
	Switched   bool `json:"switched,omitempty"`
	Consistent bool `json:"consistent,omitempty"`
	// WithMemory wants the memory of a guest that runs, Memory is set once it is kept.
	WithMemory bool `json:"withMemory,omitempty"`
	Memory     bool `json:"memory,omitempty"`
}

// Capturer takes and keeps.
type Capturer struct {
	disks    diskv1.DiskFreezeServiceClient
	guests   vmv1.GuestDiskServiceClient
	progress *record.Store[progress, *progress]
	taken    *record.Store[Taken, *Taken]
}

// New returns a capturer that keeps its records below a prefix.
func New(client *clientv3.Client, prefix string, disks diskv1.DiskFreezeServiceClient, guests vmv1.GuestDiskServiceClient) *Capturer {
	return &Capturer{
		disks: disks, guests: guests,
		progress: record.New[progress](client, prefix+"/capture/"),
		taken:    record.New[Taken](client, prefix+"/taken/"),
	}
}

// Taken returns what was taken under an ID, nil while nothing is.
func (c *Capturer) Taken(ctx context.Context, id string) (*Taken, error) {
	taken, err := c.taken.Get(ctx, id)
	if err != nil || !taken.Exists() {
		return nil, err
	}
	return taken, nil
}

// Lost reports whether what was taken is gone from the storage.
func (c *Capturer) Lost(ctx context.Context, id string) (bool, error) {
	layer, err := c.disks.GetFrozenLayer(ctx, &diskv1.GetFrozenLayerRequest{Layer: LayerOf(id)})
	if err = fault.FromStatus(err); fault.Is(err, fault.NotFound) {
		return true, nil
	}
	return layer.GetLost(), err
}

// Begun reports whether a capture was begun under a token, and is not over.
func (c *Capturer) Begun(ctx context.Context, token string) (bool, error) {
	p, err := c.progress.Get(ctx, token)
	return err == nil && p.Exists(), err
}

// Begin writes down that a capture is to be: from now on Take ends it, or
// Abandon. token names it: a UUID. memory wants that of a guest that runs, too.
// Idempotent.
func (c *Capturer) Begin(ctx context.Context, token string, disks []Disk, memory bool) error {
	p, err := c.progress.Get(ctx, token)
	if err != nil || p.Exists() {
		return err
	}
	p.Disks, p.WithMemory = disks, memory
	return c.progress.Put(ctx, token, p)
}

// Take goes on with a capture that was begun, to its end if nothing hinders it:
// then Taken has all disks. Class NotReady where it waits; class NotFound where a
// disk is gone; reason PotentiallyInconsistent where the disks have to be at rest
// and can't be.
func (c *Capturer) Take(ctx context.Context, token string, rest vmv1.GuestRest_Value) error {
	p, err := c.progress.Get(ctx, token)
	if err != nil || !p.Exists() {
		return err
	}
	freezes := make([]*diskv1.DiskFreeze, len(p.Disks))
	for i, disk := range p.Disks {
		if freezes[i], err = c.begin(ctx, disk); err != nil {
			return err
		}
	}
	if err := c.note(ctx, token, p, freezes); err != nil {
		return err
	}
	if !p.Switched {
		if err := c.move(ctx, token, p, freezes, rest); err != nil {
			return err
		}
	}
	for i, disk := range p.Disks {
		if err := c.end(ctx, disk, freezes[i], p.takenWith(token)); err != nil {
			return err
		}
	}
	return c.progress.Delete(ctx, token)
}

// takenWith is what is true of each disk that was taken.
func (p *progress) takenWith(token string) Taken {
	taken := Taken{Consistent: p.Consistent, MemoryLost: p.WithMemory && !p.Memory && !*p.Idle}
	if p.Memory {
		taken.Memory = token
	}
	return taken
}

// note writes down, the first time, whether any VM ran with the disks.
func (c *Capturer) note(ctx context.Context, token string, p *progress, freezes []*diskv1.DiskFreeze) error {
	if p.Idle != nil {
		return nil
	}
	idle := !slices.ContainsFunc(freezes, func(f *diskv1.DiskFreeze) bool { return f.GetHolder() != nil })
	p.Idle = &idle
	return c.progress.Put(ctx, token, p)
}

func (c *Capturer) begin(ctx context.Context, disk Disk) (*diskv1.DiskFreeze, error) {
	freeze, err := c.disks.BeginDiskFreeze(ctx, &diskv1.BeginDiskFreezeRequest{
		Namespace: disk.Namespace, Name: disk.Name, Uid: disk.UID, Layer: LayerOf(disk.ID),
	})
	return freeze, fault.FromStatus(err)
}

// move has the VM that runs with the disks write to their new files.
func (c *Capturer) move(ctx context.Context, token string, p *progress, freezes []*diskv1.DiskFreeze, rest vmv1.GuestRest_Value) error {
	request := &vmv1.SwitchGuestDisksRequest{Token: token, Rest: rest, Memory: p.WithMemory}
	var user *metav1.Holder
	for i, freeze := range freezes {
		holder := freeze.GetHolder()
		if holder == nil || freeze.GetFrozen() {
			continue
		}
		if user != nil && user.GetUid() != holder.GetUid() {
			return fault.New(fault.NotReady, "VirtualDiskAlreadyInUse", "the disks are in use by different VMs")
		}
		user = holder
		request.Files = append(request.Files, &vmv1.GuestDiskFile{
			VirtualDiskName: p.Disks[i].Name, Path: freeze.GetPath(), Format: freeze.GetFormat(),
		})
	}
	p.Switched, p.Consistent = true, *p.Idle
	if user != nil {
		request.Namespace, request.Name, request.Uid = user.GetNamespace(), user.GetName(), user.GetUid()
		response, err := c.guests.SwitchGuestDisks(ctx, request)
		if err != nil {
			return fault.FromStatus(err)
		}
		if !response.GetRunning() {
			return fault.New(fault.NotReady, "VirtualDiskAlreadyInUse", "VirtualMachine %s starts or stops with the disk", user.GetName()).WithRetryAfter(guestPause)
		}
		// Disks of a guest that were not all in use were not taken at one moment.
		p.Consistent = *p.Idle || response.GetAtRest() && len(request.GetFiles()) == len(freezes)
		p.Memory = response.GetMemory() && len(request.GetFiles()) == len(freezes)
	}
	return c.progress.Put(ctx, token, p)
}

// end makes the layer one to be used, and writes down what it is.
func (c *Capturer) end(ctx context.Context, disk Disk, freeze *diskv1.DiskFreeze, taken Taken) error {
	ended, err := c.disks.EndDiskFreeze(ctx, &diskv1.EndDiskFreezeRequest{
		Namespace: disk.Namespace, Name: disk.Name, Uid: disk.UID, Layer: LayerOf(disk.ID), Switched: freeze.GetHolder() != nil,
	})
	if err != nil {
		return fault.FromStatus(err)
	}
	return c.taken.Change(ctx, disk.ID, func(t *Taken) {
		t.Consistent, t.Memory, t.MemoryLost = taken.Consistent, taken.Memory, taken.MemoryLost
		t.VirtualBytes, t.StorageClass = ended.GetVirtualBytes(), freeze.GetStorageClassName()
	})
}

// Abandon ends a capture that nobody wants any more, so that no guest stays
// between its files, and drops what was taken under the IDs. Idempotent.
func (c *Capturer) Abandon(ctx context.Context, token string, ids ...string) error {
	p, err := c.progress.Get(ctx, token)
	if err != nil {
		return err
	}
	if p.Exists() {
		if err := c.unwind(ctx, token, p); err != nil {
			return err
		}
	}
	for _, disk := range p.Disks {
		ids = append(ids, disk.ID)
	}
	for _, id := range ids {
		if err := c.drop(ctx, id); err != nil {
			return err
		}
	}
	if p.WithMemory {
		if err := c.DropMemory(ctx, token); err != nil {
			return err
		}
	}
	return c.progress.Delete(ctx, token)
}

// DropMemory takes away the memory that was kept under a token. Idempotent.
func (c *Capturer) DropMemory(ctx context.Context, token string) error {
	_, err := c.guests.DropGuestMemory(ctx, &vmv1.DropGuestMemoryRequest{Token: token})
	return fault.FromStatus(err)
}

// unwind ends what was begun. Disks that were not reached yet are left alone, and
// so are those that are gone.
func (c *Capturer) unwind(ctx context.Context, token string, p *progress) error {
	begun := &progress{Version: p.Version, Idle: p.Idle, Switched: p.Switched, Consistent: p.Consistent}
	var freezes []*diskv1.DiskFreeze
	for _, disk := range p.Disks {
		_, err := c.disks.GetFrozenLayer(ctx, &diskv1.GetFrozenLayerRequest{Layer: LayerOf(disk.ID)})
		if err = fault.FromStatus(err); fault.Is(err, fault.NotFound) {
			continue
		}
		var freeze *diskv1.DiskFreeze
		if err == nil {
			freeze, err = c.begin(ctx, disk)
		}
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		begun.Disks, freezes = append(begun.Disks, disk), append(freezes, freeze)
	}
	if begun.Idle == nil {
		begun.Idle = new(bool)
	}
	if !begun.Switched && len(begun.Disks) > 0 {
		begun.Disks = slices.Clone(begun.Disks)
		if err := c.move(ctx, token, begun, freezes, vmv1.GuestRest_None); err != nil {
			return err
		}
	}
	for i, disk := range begun.Disks {
		if err := c.end(ctx, disk, freezes[i], Taken{}); err != nil {
			return err
		}
	}
	return nil
}

func (c *Capturer) drop(ctx context.Context, id string) error {
	if _, err := c.disks.DropFrozenLayer(ctx, &diskv1.DropFrozenLayerRequest{Layer: LayerOf(id)}); err != nil {
		return fault.FromStatus(err)
	}
	return c.taken.Delete(ctx, id)
}
