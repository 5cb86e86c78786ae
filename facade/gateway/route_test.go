package gateway

import (
	"strings"
	"testing"

	"orlop.dev/gen/rest"
)

// TestNoTwoRoutesOverlap holds every route against every other: a request must
// never be able to mean two methods.
func TestNoTwoRoutesOverlap(t *testing.T) {
	all, err := newCalls(rest.Handlers())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("only %d routes found: are the services linked in?", len(all))
	}
	for a, left := range all {
		for b, right := range all {
			if a != b && a.verb == b.verb && overlap(a.path, b.path) {
				t.Errorf("%s %s of %s and %s of %s overlap", a.verb, a.path, left.method.FullName(), b.path, right.method.FullName())
			}
		}
	}
}

func TestNoRouteIsWrittenTwice(t *testing.T) {
	written, found := 0, calls{}
	for _, handler := range rest.Handlers() {
		one, err := newCalls([]rest.Handler{handler})
		if err != nil {
			t.Fatal(err)
		}
		for r, c := range one {
			found[r] = c
		}
		written += len(one)
	}
	if written != len(found) {
		t.Errorf("%d routes are written, %d are different", written, len(found))
	}
}

func TestOverlap(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"/v1/microvm/{uid}", "/v1/microvm/{namespace}", true},
		{"/v1/disks/{name}", "/v1/disks:watch", false},
		{"/v1/disks/{name}", "/v1/disks/{name}:start", false},
		{"/v1/disks", "/v1/images", false},
		{"/v1/{any}", "/v1/images", true},
	} {
		if got := overlap(test.a, test.b); got != test.want {
			t.Errorf("overlap(%s, %s) = %v", test.a, test.b, got)
		}
	}
}

func overlap(a, b string) bool {
	pathA, actionA, _ := strings.Cut(a, ":")
	pathB, actionB, _ := strings.Cut(b, ":")
	partsA, partsB := strings.Split(pathA, "/"), strings.Split(pathB, "/")
	if actionA != actionB || len(partsA) != len(partsB) {
		return false
	}
	for i := range partsA {
		if partsA[i] != partsB[i] && !strings.HasPrefix(partsA[i], "{") && !strings.HasPrefix(partsB[i], "{") {
			return false
		}
	}
	return true
}
