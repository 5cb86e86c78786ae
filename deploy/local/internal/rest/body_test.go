package rest_test

import (
	"net/http"
	"strings"
	"testing"
)

// printed is what `kubectl get -o yaml` prints, as JSON.
const printed = `{
  "apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": "VirtualDisk",
  "metadata": {
    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}\n"},
    "creationTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["orlop.dev/service"], "generation": 3,
    "labels": {"app": "web"}, "name": "printed", "namespace": "default", "selfLink": null,
    "managedFields": [{
      "apiVersion": "virtualization.deckhouse.io/v1alpha2", "fieldsType": "FieldsV1",
      "fieldsV1": {"f:spec": {".": {}, "f:persistentVolumeClaim": {"f:size": {}}}},
      "manager": "kubectl-client-side-apply", "operation": "Update", "time": "2026-01-02T03:04:05Z"}]
  },
  "spec": {"persistentVolumeClaim": {"size": 104857600, "storageClassName": null}},
  "status": {
    "phase": "Ready", "capacity": "100Mi", "observedGeneration": 3,
    "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "", "observedGeneration": 3,
      "lastTransitionTime": "2026-01-02T03:04:05Z"}],
    "stats": {"creationDuration": {"waitingForDependencies": null, "totalProvisioning": "1s"}}
  }
}`

func (d *door) testPrintedManifest(t *testing.T) {
	made := d.ask(t, request{method: http.MethodPost, path: disks, body: printed}).object(t, http.StatusOK)
	if at(made, "spec", "persistentVolumeClaim", "size") != "104857600" || at(made, "metadata", "labels", "app") != "web" {
		t.Errorf("made %v", made)
	}
	if at(made, "status", "capacity") != nil || at(made, "metadata", "creationTimestamp") == "2026-01-02T03:04:05Z" {
		t.Errorf("what is the service's to say was taken from the caller: %v", made)
	}
	again := d.get(t, "printed")
	d.ask(t, request{method: http.MethodPut, path: disks + "/printed", body: again, header: map[string]string{"If-Match": "*"}})
	for _, empty := range []string{"managedFields", "generateName", "ownerReferences"} {
		if value, found := at(again, "metadata").(map[string]any)[empty]; found && value == nil {
			t.Errorf("%s is printed though it is empty", empty)
		}
	}
}

func (d *door) testBodies(t *testing.T) {
	const named = `"metadata":{"name":"bad"}`
	for _, test := range []struct{ name, body, field, rule string }{
		{"unknown field", `{` + named + `,"spec":{"dataSouce":{}}}`, "spec.dataSouce", "FieldUnknown"},
		{"unknown word", `{` + named + `,"spec":{"dataSource":{"type":"FTP"}}}`, "spec.dataSource.type", "FieldValueNotSupported"},
		{"wrong type", `{` + named + `,"spec":{"persistentVolumeClaim":{"storageClassName":1}}}`, "spec.persistentVolumeClaim.storageClassName", "FieldValueTypeInvalid"},
		{"broken rule", `{` + named + `,"spec":{"persistentVolumeClaim":{"size":"ten"}}}`, "spec.persistentVolumeClaim.size", ""},
		{"bad name", `{"metadata":{"name":"Bad_Name"},"spec":{"persistentVolumeClaim":{"size":"1Mi"}}}`, "metadata.name", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			for method, path := range map[string]string{http.MethodPost: disks, http.MethodPatch: disks + "/bad"} {
				if test.rule == "" && method == http.MethodPatch {
					continue // there is no such disk, which comes first
				}
				f := d.ask(t, request{method: method, path: path, body: test.body}).refusal(t, http.StatusBadRequest, "Invalid")
				if len(f.Fields) == 0 || f.Fields[0].Field != test.field || f.Fields[0].Message == "" {
					t.Fatalf("%s: refused are %+v", method, f)
				}
				if test.rule != "" && f.Fields[0].Rule != test.rule {
					t.Errorf("%s: the rule is %s", method, f.Fields[0].Rule)
				}
			}
		})
	}
	for name, body := range map[string]string{"no JSON": `{"metadata":`, "two values": `{} {}`, "a list": `[]`, "a word": `"x"`} {
		t.Run(name, func(t *testing.T) {
			d.ask(t, request{method: http.MethodPost, path: disks, body: body}).refusal(t, http.StatusBadRequest, "Invalid")
		})
	}
	d.ask(t, request{method: http.MethodPost, path: disks, body: " "}).refusal(t, http.StatusBadRequest, "BodyRequired")
	large := `{"metadata":{"name":"` + strings.Repeat("x", 5<<20) + `"}}`
	d.ask(t, request{method: http.MethodPost, path: disks, body: large}).refusal(t, http.StatusRequestEntityTooLarge, "BodyTooLarge")
}

func (d *door) testMismatch(t *testing.T) {
	elsewhere := manifest("elsewhere")
	elsewhere["metadata"] = map[string]any{"name": "elsewhere", "namespace": "other"}
	d.ask(t, request{method: http.MethodPost, path: disks, body: elsewhere}).object(t, http.StatusBadRequest)
	d.create(t, "one-name")
	d.ask(t, request{method: http.MethodPut, path: disks + "/one-name", body: manifest("other-name")}).object(t, http.StatusBadRequest)
}
