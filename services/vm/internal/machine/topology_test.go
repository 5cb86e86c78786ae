package machine

import "testing"

func TestTopologyFollowsTheGuide(t *testing.T) {
	for _, test := range []struct {
		cores, sockets, perSocket int32
		valid                     bool
	}{
		{1, 1, 1, true}, {8, 1, 8, true}, {16, 1, 16, true},
		{17, 2, 8, false}, {18, 2, 9, true}, {20, 2, 10, true}, {32, 2, 16, true},
		{33, 4, 8, false}, {34, 4, 8, false}, {40, 4, 10, true}, {64, 4, 16, true},
		{65, 8, 8, false}, {72, 8, 9, true}, {80, 8, 10, true}, {248, 8, 31, true}, {256, 8, 32, false},
	} {
		got := topology(test.cores)
		if got.GetSockets() != test.sockets || got.GetCoresPerSocket() != test.perSocket {
			t.Errorf("%d cores: %d sockets of %d, want %d of %d",
				test.cores, got.GetSockets(), got.GetCoresPerSocket(), test.sockets, test.perSocket)
		}
		if err := checkCores(test.cores); (err == nil) != test.valid {
			t.Errorf("%d cores: %v, want valid=%v", test.cores, err, test.valid)
		}
	}
}
