//go:build soak

package qemu

import "testing"

// TestSoakMoves is TestAMachineMovesAndItsMemoryStaysRight for an hour's worth of
// migrations: what is lost once in many would show.
func TestSoakMoves(t *testing.T) { newMover(t).moves(50) }
