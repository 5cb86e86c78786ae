package cli

import (
	"errors"
	"slices"
	"testing"
)

func TestCopyHasOneSideInAVM(t *testing.T) {
	c := &client{namespace: "mine"}
	for _, test := range []struct {
		name  string
		args  []string
		vm    objectName
		sides []string // nil: refused
	}{
		{"to a VM", []string{"a", "cloud@vm:/tmp"}, objectName{"mine", "vm"}, []string{"a", "cloud@vm.mine:/tmp"}},
		{"from a VM of another namespace", []string{"vm.other:", "."}, objectName{"other", "vm"}, []string{"root@vm.other:", "."}},
		{"a local file with a colon", []string{"./a:b", "vm:c:d"}, objectName{"mine", "vm"}, []string{"./a:b", "root@vm.mine:c:d"}},
		{"from here to here", []string{"a", "b"}, objectName{}, nil},
		{"from a VM to a VM", []string{"vm:a", "vm:b"}, objectName{}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			vm, sides, err := (&shell{user: "root"}).sides(c, test.args)
			if refused := errors.Is(err, errOneSide); refused != (test.sides == nil) {
				t.Fatal(err)
			}
			if vm != test.vm || !slices.Equal(sides, test.sides) {
				t.Errorf("got %v and %q", vm, sides)
			}
		})
	}
}

func TestPortsToForward(t *testing.T) {
	for argument, want := range map[string]*portPair{
		"80":          {80, 80},
		"8080:80":     {8080, 80},
		":80":         {0, 80},
		"tcp/8080:80": {8080, 80},
		"udp/53":      nil,
		"0":           nil,
		"80:":         nil,
		"80:70000":    nil,
		"a:80":        nil,
	} {
		got, err := parsePorts([]string{argument})
		if want == nil && err == nil {
			t.Errorf("%s: got %v", argument, got)
		}
		if want != nil && (err != nil || got[0] != *want) {
			t.Errorf("%s: got %v, %v", argument, got, err)
		}
	}
}
