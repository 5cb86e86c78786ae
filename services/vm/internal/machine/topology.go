package machine

import (
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
)

// maxCores is the largest VM: 8 sockets of 31 cores.
const maxCores = 248

// sockets is the number of sockets that a number of cores is divided among
// (guide, "Automatic CPU Topology Configuration").
func sockets(cores int32) int32 {
	switch {
	case cores <= 16:
		return 1
	case cores <= 32:
		return 2
	case cores <= 64:
		return 4
	}
	return 8
}

// topology is how a guest sees its cores.
func topology(cores int32) *vmv1.CPUTopology {
	n := sockets(cores)
	return &vmv1.CPUTopology{Sockets: n, CoresPerSocket: cores / n}
}

// checkCores refuses numbers of cores that don't divide evenly.
func checkCores(cores int32) error {
	n := sockets(cores)
	switch {
	case cores > maxCores:
		return fault.Refuse("spec.cpu.cores", "FieldValueInvalid", "must be at most %d, not %d", maxCores, cores)
	case cores%n != 0:
		return fault.Refuse("spec.cpu.cores", "FieldValueInvalid",
			"%d cores are divided among %d sockets: the number must be a multiple of %d", cores, n, n)
	}
	return nil
}
