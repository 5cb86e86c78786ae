package kubernetes

// The kinds are found by their descriptors, which are there because these
// packages are linked in.
import (
	_ "orlop.dev/gen/orlop/image/v1"
	_ "orlop.dev/gen/orlop/network/v1"
)
