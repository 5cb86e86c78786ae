package local

import (
	"k8s.io/apimachinery/pkg/api/resource"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/services/vm/internal/qemu"
)

const (
	mebibyte = 1 << 20
	// processBytes is QEMU itself with its devices and the screen, threadBytes a
	// processor's part, firmwareBytes UEFI's flash, tpmBytes the emulator of a TPM.
	processBytes  = 80 * mebibyte
	threadBytes   = 4 * mebibyte
	firmwareBytes = 8 * mebibyte
	tpmBytes      = 16 * mebibyte
	// tableShare is the part of the guest's memory that the host's page tables take.
	tableShare = 512
)

// Overhead tells what running a VM takes beside its guest's memory, in bytes.
func Overhead(host qemu.Host) func(*vmv1.VirtualMachineSpec) int64 {
	return func(spec *vmv1.VirtualMachineSpec) int64 {
		size, _ := resource.ParseQuantity(spec.GetMemory().GetSize()) // judged at admission
		bytes := processBytes + int64(spec.GetCpu().GetCores())*threadBytes + size.Value()/tableShare + host.TranslationBytes(size.Value())
		if spec.GetBootloader() > vmv1.Bootloader_BIOS {
			bytes += firmwareBytes
		}
		if spec.GetOsType() == vmv1.OSType_Windows {
			bytes += tpmBytes
		}
		return (bytes + mebibyte - 1) / mebibyte * mebibyte
	}
}
