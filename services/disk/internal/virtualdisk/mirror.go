package virtualdisk

import (
	"cmp"
	"context"
	"errors"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/disk/internal/layer"
	"orlop.dev/services/disk/internal/origin"
)

// nodeOf is the only node that reaches a volume; empty where every node does.
func nodeOf(volume layer.Volume, record *origin.Record) string {
	return cmp.Or(volume.Place, record.Node)
}

// mirror has a file ready for a volume that its VM takes along to another node, and
// ends the copying once the VM is here or there.
func (r *Reconciler) mirror(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) error {
	uid, volume := disk.GetMetadata().GetUid(), *o.volume
	node, target := nodeOf(volume, o.record), ""
	if holder := activeHolder(disk); holder.GetKind() == kindMachine && node != "" && holder.GetTargetNode() != node {
		target = holder.GetTargetNode()
	}
	var err error
	switch {
	case volume.Mirror.Place == target:
		return nil
	case volume.Mirror.Place != "":
		*o.volume, err = r.endMirror(ctx, uid)
	default:
		err = r.Volumes.BeginMirror(ctx, uid, target)
	}
	if errors.Is(err, layer.ErrBusy) || fault.Is(err, fault.NotReady) {
		o.again = mirrorAgain
		return nil
	}
	return err
}

// endMirror ends the copying of a volume, and gives what it is now.
func (r *Reconciler) endMirror(ctx context.Context, uid string) (layer.Volume, error) {
	if err := r.Volumes.EndMirror(ctx, uid); err != nil {
		return layer.Volume{}, volumeFault(err)
	}
	volume, _, err := r.Volumes.Lookup(ctx, uid)
	return volume, err
}
