package virtualdisk

import (
	"context"

	"k8s.io/apimachinery/pkg/api/resource"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
)

// sectorBytes is what every disk's size is a multiple of.
const sectorBytes = 512

// hasRoom refuses a disk that wants extra bytes more, where all disks together
// might fill the storage by more than the overcommit allows.
func (r *Reconciler) hasRoom(ctx context.Context, o *observation, extra int64) error {
	if r.Overcommit == 0 {
		return nil
	}
	room, err := r.Space.Room(ctx)
	if err != nil {
		return err
	}
	if room.Fits(extra, r.Overcommit) {
		return nil
	}
	left := max(0, int64(float64(room.Free)*r.Overcommit)-room.Promised)
	o.volumeFault = fault.New(fault.Exhausted, reasonQuotaExceeded,
		"%s more are wanted and %s can be promised: %s are free here, other disks may yet grow by %s, and the overcommit is %g",
		about(extra), about(left), about(room.Free), about(room.Promised), r.Overcommit).WithRetryAfter(lookAgain)
	return o.volumeFault
}

// wantedSize is the size that the spec asks for, in bytes; 0 where the source
// decides.
func wantedSize(disk *diskv1.VirtualDisk) (int64, *fault.Fault) {
	text := disk.GetSpec().GetPersistentVolumeClaim().GetSize()
	if text == "" {
		return 0, nil
	}
	const path = "spec.persistentVolumeClaim.size"
	size, err := resource.ParseQuantity(text)
	if err != nil {
		return 0, fault.Refuse(path, "FieldValueInvalid", "%q is no quantity, such as 10Gi", text)
	}
	if size.Sign() <= 0 {
		return 0, fault.Refuse(path, "FieldValueInvalid", "must be greater than zero")
	}
	bytes, exact := size.AsInt64()
	if !exact {
		return 0, fault.Refuse(path, "FieldValueInvalid", "%s is no whole number of bytes, or too large", text)
	}
	return roundUp(bytes), nil
}

func roundUp(bytes int64) int64 { return (bytes + sectorBytes - 1) / sectorBytes * sectorBytes }

func quantity(bytes int64) string { return resource.NewQuantity(bytes, resource.BinarySI).String() }

// about is a size for people: whole units, at least ten of them where it can be.
func about(bytes int64) string {
	for _, unit := range []int64{1 << 40, 1 << 30, 1 << 20} {
		if bytes >= 10*unit {
			return quantity(bytes / unit * unit)
		}
	}
	return quantity(bytes)
}
