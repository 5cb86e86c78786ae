package rest_test

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
)

// TestREST asks one door for everything, since a start takes a second.
func TestREST(t *testing.T) {
	d := newDoor(t)
	for name, test := range map[string]func(*testing.T){
		"standard methods":                       d.testMethods,
		"a mask is what the body has":            d.testPatch,
		"If-Match is the wanted version":         d.testIfMatch,
		"a repeated key is a repeated request":   d.testIdempotencyKey,
		"validateOnly stores nothing":            d.testValidateOnly,
		"pages":                                  d.testPages,
		"label selectors":                        d.testSelector,
		"a misspelt parameter is refused":        d.testParameters,
		"a manifest as kubectl prints it":        d.testPrintedManifest,
		"what is wrong in a body is named":       d.testBodies,
		"path and body can't disagree":           d.testMismatch,
		"nothing without a credential":           d.testCredentials,
		"what is public":                         d.testPublic,
		"where nothing is served":                d.testRoutes,
		"a watch tells changes":                  d.testWatch,
		"a watch that can't be is a refusal":     d.testWatchRefused,
		"a watch through a viewer's eyes":        d.testWatchRights,
		"rights are the service's to judge":      d.testRights,
		"headers are no way around the services": d.testForgedHeaders,
	} {
		t.Run(name, test)
	}
}

func (d *door) testMethods(t *testing.T) {
	made := d.create(t, "methods")
	if at(made, "metadata", "uid") == "" || at(made, "spec", "persistentVolumeClaim", "size") != "10Mi" {
		t.Errorf("made %v", made)
	}
	d.ask(t, request{method: http.MethodPost, path: disks, body: manifest("methods")}).refusal(t, http.StatusConflict, "AlreadyExists")

	changed := manifest("methods")
	changed["spec"] = map[string]any{"persistentVolumeClaim": map[string]any{"size": "20Mi"}}
	put := d.ask(t, request{method: http.MethodPut, path: disks + "/methods", body: changed})
	if got := at(put.object(t, http.StatusOK), "spec", "persistentVolumeClaim", "size"); got != "20Mi" {
		t.Errorf("PUT made it %v", got)
	}
	if got := at(d.get(t, "methods"), "spec", "persistentVolumeClaim", "size"); got != "20Mi" {
		t.Errorf("GET shows %v", got)
	}
	d.ask(t, request{method: http.MethodPut, path: disks + "/nobody", body: manifest("nobody")}).refusal(t, http.StatusNotFound, "NotFound")
	created := d.ask(t, request{method: http.MethodPut, path: disks + "/nobody?allowMissing=true", body: manifest("nobody")})
	created.object(t, http.StatusOK)

	gone := d.ask(t, request{method: http.MethodDelete, path: disks + "/methods"}).object(t, http.StatusOK)
	if at(gone, "metadata", "deletionTimestamp") == nil {
		t.Errorf("DELETE answers %v", gone)
	}
	d.ask(t, request{method: http.MethodDelete, path: disks + "/was-never"}).refusal(t, http.StatusNotFound, "NotFound")
	d.ask(t, request{method: http.MethodDelete, path: disks + "/was-never?allowMissing=true"}).object(t, http.StatusOK)
	d.ask(t, request{method: http.MethodGet, path: disks + "/was-never"}).refusal(t, http.StatusNotFound, "NotFound")
}

func (d *door) testPatch(t *testing.T) {
	full := manifest("patch")
	full["metadata"] = map[string]any{"name": "patch", "labels": map[string]any{"kept": "yes"}, "annotations": map[string]any{"kept": "yes"}}
	d.ask(t, request{method: http.MethodPost, path: disks, body: full}).object(t, http.StatusOK)

	patch := func(body string) answer {
		return d.ask(t, request{method: http.MethodPatch, path: disks + "/patch", body: body})
	}
	grown := patch(`{"spec":{"persistentVolumeClaim":{"size":30000000}}}`).object(t, http.StatusOK)
	if at(grown, "spec", "persistentVolumeClaim", "size") != "30000000" || at(grown, "metadata", "labels", "kept") != "yes" {
		t.Errorf("PATCH of the size made %v", grown)
	}
	labelled := patch(`{"metadata":{"labels":{"new":"1"}}}`).object(t, http.StatusOK)
	if at(labelled, "metadata", "labels", "new") != "1" || at(labelled, "metadata", "annotations", "kept") != "yes" ||
		at(labelled, "spec", "persistentVolumeClaim", "size") != "30000000" {
		t.Errorf("PATCH of the labels made %v", labelled)
	}
	masked := d.ask(t, request{method: http.MethodPatch, path: disks + "/patch?updateMask=metadata.annotations", body: `{"spec":{"persistentVolumeClaim":{"size":"99Gi"}}}`})
	if got := masked.object(t, http.StatusOK); at(got, "metadata", "annotations") != nil || at(got, "spec", "persistentVolumeClaim", "size") != "30000000" {
		t.Errorf("PATCH by a given mask made %v", got)
	}
	patch(`{"spec":{"size":"1Gi"}}`).refusal(t, http.StatusBadRequest, "Invalid")
}

func (d *door) testIfMatch(t *testing.T) {
	d.create(t, "if-match")
	path := disks + "/if-match"
	first := d.ask(t, request{method: http.MethodGet, path: path})
	version := first.Header.Get("ETag")
	if want := fmt.Sprintf("%q", at(first.object(t, http.StatusOK), "metadata", "resourceVersion")); version != want {
		t.Fatalf("the ETag is %s, want %s", version, want)
	}
	match := map[string]string{"If-Match": version}
	// The reconciler's status may come between: its version is then the present one.
	labelled := func(value string) request {
		return request{method: http.MethodPatch, path: path, body: `{"metadata":{"labels":{"a":"` + value + `"}}}`, header: match}
	}
	stale := map[string]string{"If-Match": `"1"`}
	d.ask(t, request{method: http.MethodPut, path: path, body: manifest("if-match"), header: stale}).refusal(t, http.StatusConflict, "Conflict")
	d.ask(t, request{method: http.MethodPatch, path: path, body: `{"metadata":null,"spec":{}}`, header: stale}).refusal(t, http.StatusConflict, "Conflict")
	d.ask(t, request{method: http.MethodDelete, path: path, header: stale}).refusal(t, http.StatusConflict, "Conflict")
	d.ask(t, request{method: http.MethodDelete, path: path + "?etag=1"}).refusal(t, http.StatusConflict, "Conflict")
	for {
		match["If-Match"] = d.ask(t, request{method: http.MethodGet, path: path}).Header.Get("ETag")
		if d.ask(t, labelled("1")).StatusCode == http.StatusOK {
			break
		}
	}
	d.ask(t, labelled("2")).refusal(t, http.StatusConflict, "Conflict")
	match["If-Match"] = "*"
	d.ask(t, labelled("3")).object(t, http.StatusOK)
}

func (d *door) testIdempotencyKey(t *testing.T) {
	key := map[string]string{"Idempotency-Key": "0d4a1f5e-3c0b-4f6e-9d6a-6f6a0d1f7c11"}
	ask := func(body any) answer {
		return d.ask(t, request{method: http.MethodPost, path: disks, body: body, header: key})
	}
	first := ask(manifest("once")).object(t, http.StatusOK)
	again := ask(manifest("once")).object(t, http.StatusOK)
	if at(first, "metadata", "uid") != at(again, "metadata", "uid") {
		t.Errorf("the repeated request got %v", again)
	}
	if f := ask(manifest("another")); f.StatusCode != http.StatusBadRequest {
		t.Errorf("another body under the same key got %d: %s", f.StatusCode, f.text)
	}
	d.ask(t, request{method: http.MethodGet, path: disks + "/once", header: key}).object(t, http.StatusOK)
}

func (d *door) testValidateOnly(t *testing.T) {
	d.ask(t, request{method: http.MethodPost, path: disks + "?validateOnly=true", body: manifest("dry")}).object(t, http.StatusOK)
	d.ask(t, request{method: http.MethodPost, path: disks + "?validate_only=true", body: manifest("dry")}).object(t, http.StatusOK)
	d.ask(t, request{method: http.MethodGet, path: disks + "/dry"}).refusal(t, http.StatusNotFound, "NotFound")
	d.create(t, "not-dry")
	d.ask(t, request{method: http.MethodDelete, path: disks + "/not-dry?validateOnly=true"}).object(t, http.StatusOK)
	if at(d.get(t, "not-dry"), "metadata", "deletionTimestamp") != nil {
		t.Error("a trial deleted")
	}
}

func (d *door) testPages(t *testing.T) {
	const path = "/v1alpha2/namespaces/pages/virtualdisks"
	for i := range 5 {
		body := manifest(fmt.Sprintf("page-%d", i))
		body["metadata"] = map[string]any{"name": fmt.Sprintf("page-%d", i)}
		d.ask(t, request{method: http.MethodPost, path: path, body: body}).object(t, http.StatusOK)
	}
	var names []string
	token := ""
	for pages := 1; ; pages++ {
		page := d.ask(t, request{method: http.MethodGet, path: path + "?pageSize=2&pageToken=" + url.QueryEscape(token)}).object(t, http.StatusOK)
		items, _ := page["items"].([]any)
		for _, item := range items {
			names = append(names, at(item, "metadata", "name").(string))
		}
		if token, _ = page["nextPageToken"].(string); token == "" {
			if pages != 3 || page["resourceVersion"] == nil {
				t.Errorf("page %d is the last: %v", pages, page)
			}
			break
		}
	}
	if fmt.Sprint(names) != "[page-0 page-1 page-2 page-3 page-4]" {
		t.Errorf("the pages have %v", names)
	}
	all := d.ask(t, request{method: http.MethodGet, path: "/v1alpha2/virtualdisks"}).object(t, http.StatusOK)
	if len(all["items"].([]any)) < 5 {
		t.Errorf("all namespaces have %v", all)
	}
	d.ask(t, request{method: http.MethodGet, path: path + "?pageToken=nonsense"}).object(t, http.StatusBadRequest)
	d.ask(t, request{method: http.MethodGet, path: path + "?pageSize=two"}).object(t, http.StatusBadRequest)
}

func (d *door) testSelector(t *testing.T) {
	for name, tier := range map[string]string{"front": "web", "back": "db"} {
		body := manifest(name)
		body["metadata"] = map[string]any{"name": name, "labels": map[string]any{"tier": tier}}
		d.ask(t, request{method: http.MethodPost, path: disks, body: body}).object(t, http.StatusOK)
	}
	for selector, want := range map[string]string{"tier=web": "front", "tier in (db)": "back", "tier,tier!=web": "back"} {
		page := d.ask(t, request{method: http.MethodGet, path: disks + "?labelSelector=" + url.QueryEscape(selector)}).object(t, http.StatusOK)
		items, _ := page["items"].([]any)
		if len(items) != 1 || at(items[0], "metadata", "name") != want {
			t.Errorf("%s selects %v", selector, items)
		}
	}
	d.ask(t, request{method: http.MethodGet, path: disks + "?labelSelector=" + url.QueryEscape("a b")}).object(t, http.StatusBadRequest)
}

func (d *door) testParameters(t *testing.T) {
	for _, query := range []string{"validateonly=true", "dryRun=All", "namespace=other", "virtualDisk.kind=x"} {
		refused := d.ask(t, request{method: http.MethodPost, path: disks + "?" + query, body: manifest("misspelt")})
		if f := refused.refusal(t, http.StatusBadRequest, "Invalid"); len(f.Fields) != 1 || f.Fields[0].Rule != "FieldUnknown" {
			t.Errorf("%s: %s", query, refused.text)
		}
	}
	d.ask(t, request{method: http.MethodGet, path: disks + "/misspelt"}).refusal(t, http.StatusNotFound, "NotFound")
	d.ask(t, request{method: http.MethodGet, path: disks + "?a=%zz"}).refusal(t, http.StatusBadRequest, "Invalid")
}
