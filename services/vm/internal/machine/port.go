package machine

import (
	"context"
	"strings"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/services/vm/internal/migration"
)

// Engine runs guests. Instances are known by their VM's UID.
type Engine interface {
	// Start makes an instance run. Idempotent: one that runs is left as it is.
	Start(ctx context.Context, instance Instance) error
	// Recall makes an instance that stands still with the memory that was kept under
	// a token; Start lets it go on. atRest says that its file systems are frozen.
	// Idempotent until then. Class Invalid where the memory is not of such an
	// instance, or gone.
	Recall(ctx context.Context, instance Instance, token string) (atRest bool, err error)
	// Look says how an instance is, and what its guest's agent last said.
	Look(ctx context.Context, uid string) (Sight, error)
	// Powerdown asks the guest to shut down. Repeating it is harmless.
	Powerdown(ctx context.Context, uid string) error
	// Kill ends an instance at once and forgets it. Idempotent.
	Kill(ctx context.Context, uid string) error
	// Grow makes a device of a running instance larger, by its ID. Idempotent; no
	// device is ever made smaller.
	Grow(ctx context.Context, uid, device string, virtualBytes int64) error
}

// NonVolatile is what a VM has from one instance to the next beside its disks: the
// firmware's variables, and the TPM.
type NonVolatile interface {
	// Discard takes it away. Idempotent. There must be no instance.
	Discard(ctx context.Context, uid string) error
}

// Instance is all that an engine needs to run a VM.
type Instance struct {
	UID, Namespace, Name string
	CPUModel             string
	CPUFeatures          []string
	// CPUExact refuses to start where that processor can't be had whole.
	CPUExact bool
	// MilliCPU is the most processor time, in thousandths of a processor; 0 for all.
	MilliCPU        int64
	Topology        *vmv1.CPUTopology
	MemoryBytes     int64
	Paravirtualized bool
	Bootloader      vmv1.Bootloader_Value
	OS              vmv1.OSType_Value
	// Devices in boot order.
	Devices []Device
	// Plugged are the devices of attachments, in the order in which an earlier
	// instance had them.
	Plugged      []Device
	Port         *networkv1.Port
	Provisioning Provisioning
}

// Device is a disk or an image with its data.
type Device struct {
	// ID is the same for the same object over restarts.
	ID string
	// Path is empty for a disk that is being made for the VM.
	Path     string
	Format   string
	ReadOnly bool
	CDROM    bool
	// Node is the only one that reaches the device; empty where every node does.
	Node string
	// Copy is the file that such a device is copied into for the target node that was
	// claimed; its Path is empty until it is made.
	Copy migration.Copy
	// GrowTo is the size in bytes that a disk is to have, which it may have already;
	// 0 for an image.
	GrowTo int64
}

// State is what an instance is doing.
type State string

// The states of an instance.
const (
	Absent   State = "Absent"   // there is none
	Running  State = "Running"  // the guest runs
	Paused   State = "Paused"   // stands still, for example for want of space
	Shutdown State = "Shutdown" // the guest powered itself off
	Panicked State = "Panicked" // the guest's kernel gave up
	Crashed  State = "Crashed"  // the process ended without being told to
	// Unresponsive is an instance that is there and does not answer.
	Unresponsive State = "Unresponsive"
)

// Alive reports whether there is an instance that uses its devices.
func (s State) Alive() bool {
	return s == Running || s == Paused || s == Shutdown || s == Panicked || s == Unresponsive
}

// ended reports whether the guest came to its end by itself.
func (s State) ended() bool { return s == Shutdown || s == Panicked || s == Crashed }

// Sight is one look at an instance.
type Sight struct {
	State State
	// Agent is what the guest's agent says, nil where it doesn't answer.
	Agent *Agent
	// Unlimited says why an instance takes more processor time than it may; empty
	// where it doesn't. A part of a sentence.
	Unlimited string
	// QEMU is the version that runs the instance, InstalledQEMU the one that a new
	// instance would have.
	QEMU, InstalledQEMU string
	// Stalled are the devices to which a write failed, while the guest stands still for
	// it.
	Stalled []Stalled
	// Moving is true where something is left of a migration that has not ended.
	Moving bool
	// Plugged are the devices that were plugged in and are there, disks in the order
	// of their names in the guest.
	Plugged []Plugged
}

// Stalled is a device to which a write failed.
type Stalled struct {
	ID string
	// NoSpace is a write that failed for want of space.
	NoSpace bool
}

// Plugged is a device that was plugged in.
type Plugged struct {
	ID string
	// Place counts the places before it, free ones too, that disks have, or CD-ROMs:
	// a guest that saw all of them come names it so.
	Place int
}

// IDs of the devices that were plugged in.
func (s Sight) IDs() []string {
	var ids []string
	for _, p := range s.Plugged {
		ids = append(ids, p.ID)
	}
	return ids
}

// Agent is what a guest says of itself. Not to be believed for a decision.
type Agent struct {
	Version string
	// Lacks are the agent's commands that are needed and that it has not.
	Lacks []string
	OS    map[string]any
	// Targets are the guest's names of its devices, by their IDs, as far as it told.
	Targets map[string]string
	// Since is when the agent first answered.
	Since time.Time
}

// Devices finds and claims disks and images.
type Devices interface {
	// State tells how far a device is.
	State(ref *vmv1.BlockDeviceRef, namespace string) DeviceState
	// Claim says that the holder uses the device, and where its data is.
	Claim(ctx context.Context, ref *vmv1.BlockDeviceRef, holder *metav1.Holder) (Device, error)
	// Release ends a claim. Idempotent.
	Release(ctx context.Context, ref *vmv1.BlockDeviceRef, holder *metav1.Holder) error
	// Held lists the devices that the holder has claimed.
	Held(holder *metav1.Holder) []HeldDevice
}

// DeviceID names a device for as long as it belongs to a VM.
func DeviceID(ref *vmv1.BlockDeviceRef) string {
	return strings.ToLower(ref.GetKind().String()) + "/" + ref.GetName()
}

// Attachments finds what a VM is to have besides the devices of its spec.
type Attachments interface {
	// Of lists them, oldest first, without those that are being deleted or that
	// another one excludes.
	Of(vm *vmv1.VirtualMachine) []Attachment
}

// Attachment is a device that a VM is to have.
type Attachment struct {
	Name string
	Ref  *vmv1.BlockDeviceRef
}

// DeviceState is a disk or an image as a VM sees it.
type DeviceState struct {
	Found, Ready bool
	CDROM        bool
	Size         string
	// Phase and Message say what is waited for.
	Phase, Message string
	// HeldBy is who uses the disk, nil if nobody does.
	HeldBy *metav1.Holder
	// AwaitsConsumer is a disk that is made once a VM wants to run with it, InMaking
	// one that is not made yet for whatever reason.
	AwaitsConsumer, InMaking bool
	// Grows is a disk that waits for the VM that runs with it to make it larger.
	Grows bool
}

// HeldDevice is a claim on a device.
type HeldDevice struct {
	Ref *vmv1.BlockDeviceRef
	// Active is true while the VM runs with the device.
	Active bool
}

// Allocator makes addresses for VMs.
type Allocator interface {
	// Allocate makes an IP address for the VM, a MAC or both, with their leases and
	// all at once, which go with it. Idempotent: there is one of each at a time.
	Allocate(ctx context.Context, vm *vmv1.VirtualMachine, ip, mac bool) error
}

// Addresses finds and claims addresses: of IP, or MACs.
type Addresses[T resource.Object] interface {
	// Find returns the address of that name, or, where it is empty, the one that
	// was made for the VM; nil if there is none.
	Find(vm *vmv1.VirtualMachine, name string) T
	// Claim says that the holder uses the address, and how it is plugged in: that
	// of an IP address, with the MAC that was claimed before it.
	Claim(ctx context.Context, address T, holder *metav1.Holder) (*networkv1.Port, error)
	// Release ends a claim. Idempotent.
	Release(ctx context.Context, address T, holder *metav1.Holder) error
	// Held lists the addresses that the holder has claimed.
	Held(holder *metav1.Holder) []T
}
