package export

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource"
)

const (
	// HolderKind is the kind of the holder that a disk has while it is exported.
	HolderKind = "VirtualDiskExport"

	releaseTimeout = 10 * time.Second
	sweepEvery     = 30 * time.Second
)

// Disks are the VirtualDisks that there are.
type Disks interface {
	Get(key resource.Key) (*diskv1.VirtualDisk, error)
	All(namespace string, selector labels.Selector) ([]*diskv1.VirtualDisk, error)
	AddHolder(ctx context.Context, key resource.Key, holder *metav1.Holder, admit func(*diskv1.VirtualDisk) error) (*diskv1.VirtualDisk, error)
	RemoveHolder(ctx context.Context, key resource.Key, holderUID string) (*diskv1.VirtualDisk, error)
	WaitSynced(ctx context.Context) error
}

// holds are the disks that are exported just now: each has one holder, however
// many read it.
type holds struct {
	disks  Disks
	admit  func(ctx context.Context, disk *diskv1.VirtualDisk, holder *metav1.Holder) error
	logger *slog.Logger

	// mu is held while a holder is written or removed, too: a sweep must not take
	// one for stale that is new.
	mu    sync.Mutex
	count map[resource.Key]int
}

func holderUID(disk *diskv1.VirtualDisk) string { return "export-" + disk.GetMetadata().GetUid() }

// take holds a disk, so that nobody writes to it until it is released.
func (h *holds) take(ctx context.Context, key resource.Key) (disk *diskv1.VirtualDisk, release func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if disk, err = h.disks.Get(key); err != nil {
		return nil, nil, err
	}
	if h.count[key] == 0 {
		holder := &metav1.Holder{
			Kind: HolderKind, Namespace: key.Namespace, Name: key.Name, Uid: holderUID(disk), Active: true,
		}
		disk, err = h.disks.AddHolder(ctx, key, holder, func(current *diskv1.VirtualDisk) error {
			return h.admit(ctx, current, holder)
		})
		if err != nil {
			return nil, nil, err
		}
	}
	h.count[key]++
	ended := context.WithoutCancel(ctx)
	return disk, sync.OnceFunc(func() { h.release(ended, key, holderUID(disk)) }), nil
}

func (h *holds) release(ctx context.Context, key resource.Key, uid string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count[key]--; h.count[key] > 0 {
		return
	}
	delete(h.count, key)
	h.remove(ctx, key, uid)
}

func (h *holds) remove(ctx context.Context, key resource.Key, uid string) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	if _, err := h.disks.RemoveHolder(ctx, key, uid); err != nil {
		h.logger.WarnContext(ctx, "an export's hold stays until the next sweep", "disk", key, "error", err)
	}
}

// run removes holds that no export has: a process that was killed leaves them,
// and so does one that could not reach the store.
func (h *holds) run(ctx context.Context) error {
	if h.disks.WaitSynced(ctx) != nil {
		return nil // ctx ended
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		h.sweep(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (h *holds) sweep(ctx context.Context) {
	disks, err := h.disks.All("", nil)
	if err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, disk := range disks {
		key := resource.KeyOf(disk)
		for _, holder := range disk.GetMetadata().GetHolders() {
			if holder.GetKind() == HolderKind && h.count[key] == 0 {
				h.remove(ctx, key, holder.GetUid())
			}
		}
	}
}
