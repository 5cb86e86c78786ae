package machine

import vmv1 "orlop.dev/gen/orlop/vm/v1"

// Immovable says what of its hardware keeps an instance on its node: a sentence;
// empty where nothing does. The variables of UEFI firmware move as a shared disk
// does; the state of a TPM can't be open in two emulators.
func Immovable(spec *vmv1.VirtualMachineSpec) string {
	if spec.GetOsType() == vmv1.OSType_Windows {
		return "The VM has a TPM (spec.osType Windows), whose state stays where it is."
	}
	return ""
}
