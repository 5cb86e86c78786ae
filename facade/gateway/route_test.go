package gateway

import (
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

type route struct {
	verb, path, method string
}

// TestNoTwoRoutesOverlap holds every route against every other: a request must
// never be able to mean two methods.
func TestNoTwoRoutesOverlap(t *testing.T) {
	routes := allRoutes()
	if len(routes) < 50 {
		t.Fatalf("only %d routes found: are the services linked in?", len(routes))
	}
	for i, a := range routes {
		for _, b := range routes[i+1:] {
			if a.verb == b.verb && overlap(a.path, b.path) {
				t.Errorf("%s %s of %s and %s of %s overlap", a.verb, a.path, a.method, b.path, b.method)
			}
		}
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

func allRoutes() []route {
	var routes []route
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				routes = append(routes, routesOf(methods.Get(j))...)
			}
		}
		return true
	})
	return routes
}

func routesOf(method protoreflect.MethodDescriptor) []route {
	rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
	var routes []route
	for _, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		for verb, path := range map[string]string{
			"GET": r.GetGet(), "PUT": r.GetPut(), "POST": r.GetPost(), "DELETE": r.GetDelete(), "PATCH": r.GetPatch(),
		} {
			if path != "" {
				routes = append(routes, route{verb, path, string(method.FullName())})
			}
		}
	}
	return routes
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
