package rest_test

import (
	"bufio"
	"encoding/json"
	"iter"
	"net/http"
	"testing"
)

// lines reads a stream's elements as they come.
type lines struct {
	response *http.Response
	scanner  *bufio.Scanner
}

func (d *door) watch(t *testing.T, path, token string) *lines {
	t.Helper()
	response := d.open(t, request{method: http.MethodGet, path: path, token: token})
	t.Cleanup(func() { _ = response.Body.Close() })
	return &lines{response, bufio.NewScanner(response.Body)}
}

func (l *lines) next(t *testing.T) map[string]any {
	t.Helper()
	if !l.scanner.Scan() {
		t.Fatalf("the stream ended: %v", l.scanner.Err())
	}
	var element map[string]any
	check(t, json.Unmarshal(l.scanner.Bytes(), &element))
	return element
}

func (l *lines) elements(t *testing.T) iter.Seq[map[string]any] {
	return func(yield func(map[string]any) bool) {
		for yield(l.next(t)) {
		}
	}
}

// want reads on until an object has the change.
func (l *lines) want(t *testing.T, change, name string) map[string]any {
	t.Helper()
	for {
		element := l.next(t)
		if element["type"] == change && (name == "" || at(element, "object", "metadata", "name") == name) {
			return element
		}
	}
}

func (d *door) testWatch(t *testing.T) {
	const folder = "/v1alpha2/namespaces/watched/virtualdisks"
	post := func(name string) {
		body := manifest(name)
		body["metadata"] = map[string]any{"name": name}
		d.ask(t, request{method: http.MethodPost, path: folder, body: body}).object(t, http.StatusOK)
	}
	post("before")
	watch := d.watch(t, folder+":watch", "")
	if got := watch.response.Header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("the content is %q", got)
	}
	watch.want(t, "Added", "before")
	mark := watch.want(t, "Bookmark", "")
	if mark["resourceVersion"] == nil || mark["store"] == nil || mark["object"] != nil {
		t.Errorf("the bookmark is %v", mark)
	}
	post("after") // each element comes without waiting for the next
	watch.want(t, "Added", "after")
	d.ask(t, request{method: http.MethodPatch, path: folder + "/after", body: `{"metadata":{"labels":{"a":"b"}}}`}).object(t, http.StatusOK)
	watch.want(t, "Modified", "after")
	d.ask(t, request{method: http.MethodDelete, path: folder + "/after"}).object(t, http.StatusOK)
	watch.want(t, "Deleted", "after")

	resumed := d.watch(t, folder+":watch?resourceVersion="+mark["resourceVersion"].(string), "")
	for first := range resumed.elements(t) {
		if first["type"] == "Bookmark" || at(first, "object", "metadata", "name") == "before" {
			continue // the status of the earlier one may come late
		}
		if first["type"] != "Added" || at(first, "object", "metadata", "name") != "after" {
			t.Errorf("the first change after the bookmark is %v", first)
		}
		break
	}
}

func (d *door) testWatchRefused(t *testing.T) {
	for path, reason := range map[string]string{
		disks + ":watch?resourceVersion=nonsense": "Invalid",
		disks + ":watch?labelSelector=a+b":        "Invalid",
	} {
		f := d.ask(t, request{method: http.MethodGet, path: path}).refusal(t, http.StatusBadRequest, reason)
		if f.Type != "Error" {
			t.Errorf("%s: a reader of lines can't tell %+v from a change", path, f)
		}
	}
}

func (d *door) testWatchRights(t *testing.T) {
	d.watch(t, disks+":watch", viewerToken).want(t, "Bookmark", "")
	a := d.ask(t, request{method: http.MethodGet, path: disks + ":watch", token: "wrong"})
	if a.StatusCode != http.StatusUnauthorized {
		t.Errorf("a wrong token gets %d: %s", a.StatusCode, a.text)
	}
}

// TestEnds shows that an open watch holds neither the gateway nor the service
// up, and that its reader is told why it ends.
func TestEnds(t *testing.T) {
	for name, stop := range map[string]func(*door){
		"the gateway": func(d *door) { d.stopGateway() },
		"the service": func(d *door) { d.stopService() },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDoor(t)
			watch := d.watch(t, disks+":watch", "")
			watch.want(t, "Bookmark", "")
			stop(d)
			last := watch.want(t, "Error", "")
			if last["reason"] == "" || last["code"] == 0.0 || last["message"] == "" {
				t.Errorf("the last line is %v", last)
			}
			if watch.scanner.Scan() {
				t.Errorf("after its end the stream has %s", watch.scanner.Bytes())
			}
		})
	}
}
