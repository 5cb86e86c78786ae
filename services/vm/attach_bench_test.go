package vm_test

import (
	"context"
	"testing"
	"time"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/serve/servetest"
	"orlop.dev/services/vm/internal/qmp"
)

// attachRounds is how many disks each side is given.
const attachRounds = 7

// BenchmarkAttach is the time from the creation of an attachment to the watch that
// says Attached, beside the two commands by which a bare QEMU is given a disk.
func BenchmarkAttach(b *testing.B) {
	f := newFleet(b, 1+attachRounds)
	f.createAll(b, 1)
	ctx, cancel := context.WithTimeout(b.Context(), servetest.Patience)
	defer cancel()
	attachments := servetest.ClientOf[*vmv1.VirtualMachineBlockDeviceAttachment](b, f.conn)
	var ours, byHand []time.Duration
	for i := range attachRounds {
		began := time.Now()
		f.attach(b, attachments, guestName(1+i))
		ours = append(ours, time.Since(began))
	}
	commands := f.commands(b, 1)
	f.deleteAll(b, 1)
	socket, end := f.byHand(b, commands[0])
	defer end()
	check(b, awaitGuest(ctx, socket))
	monitor, err := dialQEMU(ctx, socket)
	check(b, err)
	defer monitor.Close()
	for i := range attachRounds {
		began := time.Now()
		plugByHand(b, monitor, guestName(1+i), f.disk(guestName(1+i)))
		byHand = append(byHand, time.Since(began))
	}
	b.ReportMetric(float64(median(ours).Microseconds())/1000, "ms/ours")
	b.ReportMetric(float64(median(byHand).Microseconds())/1000, "ms/by-hand")
	b.ReportMetric(0, "ns/op")
}

// attach gives the first guest a disk.
func (f *fleet) attach(b *testing.B, attachments *resource.Client[*vmv1.VirtualMachineBlockDeviceAttachment], disk string) {
	b.Helper()
	_, err := attachments.Create(b.Context(), &vmv1.VirtualMachineBlockDeviceAttachment{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: disk},
		Spec: &vmv1.VirtualMachineBlockDeviceAttachmentSpec{
			VirtualMachineName: guestName(0),
			BlockDeviceRef:     &vmv1.AttachedBlockDeviceRef{Kind: vmv1.BlockDeviceKind_VirtualDisk, Name: disk},
		},
	}, resource.WriteOptions{})
	check(b, err)
	servetest.Await(b, attachments, key(disk), "was Attached", func(a *vmv1.VirtualMachineBlockDeviceAttachment) bool {
		return a.GetStatus().GetPhase() == vmv1.AttachmentPhase_Attached
	})
}

func plugByHand(b *testing.B, monitor *qmp.Client, name, path string) {
	b.Helper()
	check(b, monitor.Execute(b.Context(), "blockdev-add", map[string]any{
		"driver": "raw", "node-name": name, "file": map[string]any{"driver": "file", "filename": path},
	}, nil))
	check(b, monitor.Execute(b.Context(), "device_add", map[string]any{
		"driver": "scsi-hd", "bus": "scsi0.0", "drive": name, "id": "plugged-" + name,
	}, nil))
}
