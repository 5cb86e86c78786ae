package rest_test

import (
	"net/http"
	"strings"
	"testing"
)

func (d *door) testCredentials(t *testing.T) {
	for _, path := range []string{disks, disks + "/any", disks + ":watch", "/", "/nowhere", "/v1alpha2/nodes"} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
			a := d.ask(t, request{method: method, path: path, token: "none"})
			a.refusal(t, http.StatusUnauthorized, "CredentialRequired")
			if a.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s doesn't say what is wanted", method, path)
			}
		}
	}
	for name, value := range map[string]string{"wrong token": "Bearer wrong", "no bearer": "Basic YTpi", "two words": "Bearer"} {
		a := d.ask(t, request{method: http.MethodGet, path: disks, header: map[string]string{"Authorization": value}})
		if a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.text)
		}
	}
}

func (d *door) testRights(t *testing.T) {
	d.ask(t, request{method: http.MethodGet, path: disks, token: viewerToken}).object(t, http.StatusOK)
	d.ask(t, request{method: http.MethodPost, path: disks, body: manifest("forbidden"), token: viewerToken}).refusal(t, http.StatusForbidden, "Forbidden")
	d.ask(t, request{method: http.MethodDelete, path: disks + "/any", token: viewerToken}).refusal(t, http.StatusForbidden, "Forbidden")
}

// testForgedHeaders tries what grpc-gateway passes on as metadata by default.
func (d *door) testForgedHeaders(t *testing.T) {
	forged := map[string]string{
		"Grpc-Metadata-Authorization":        "Bearer " + adminToken,
		"Grpc-Metadata-Orlop-On-Behalf-Of":   `{"name":"admin","groups":["system:masters"]}`,
		"Orlop-On-Behalf-Of":                 `{"name":"admin","groups":["system:masters"]}`,
		"X-Http-Method-Override":             http.MethodGet,
		"Grpc-Metadata-X-Request-Id":         "forged",
		"Impersonate-User":                   "admin",
		"X-Forwarded-Client-Cert":            "CN=system:orlop:disk",
		"Grpc-Metadata-X-Remote-User":        "admin",
		"Grpc-Metadata-System-Orlop-Service": "disk",
	}
	d.ask(t, request{method: http.MethodPost, path: disks, body: manifest("forged"), header: forged, token: viewerToken}).refusal(t, http.StatusForbidden, "Forbidden")
	d.ask(t, request{method: http.MethodGet, path: disks, header: forged, token: "none"}).refusal(t, http.StatusUnauthorized, "CredentialRequired")
}

func (d *door) testPublic(t *testing.T) {
	health := d.ask(t, request{method: http.MethodGet, path: "/healthz", token: "none"})
	if health.StatusCode != http.StatusOK {
		t.Errorf("health is %d", health.StatusCode)
	}
	api := d.ask(t, request{method: http.MethodGet, path: "/openapi.json", token: "none"}).object(t, http.StatusOK)
	if at(api, "paths", "/v1alpha2/namespaces/{namespace}/virtualdisks") == nil {
		t.Error("the OpenAPI document doesn't know the disks")
	}
	page := d.ask(t, request{method: http.MethodGet, path: "/docs", token: "none"})
	if page.StatusCode != http.StatusOK || !strings.Contains(string(page.text), "openapi.json") {
		t.Errorf("the page to browse it is %d", page.StatusCode)
	}
}

func (d *door) testRoutes(t *testing.T) {
	d.ask(t, request{method: http.MethodGet, path: "/nowhere"}).refusal(t, http.StatusNotFound, "RouteNotFound")
	d.ask(t, request{method: http.MethodGet, path: disks + "/a/b"}).refusal(t, http.StatusNotFound, "RouteNotFound")
	d.ask(t, request{method: http.MethodPut, path: disks, body: "{}"}).refusal(t, http.StatusMethodNotAllowed, "MethodNotAllowed")
	form := map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
	d.ask(t, request{method: http.MethodPost, path: disks + "/any", body: "{}", header: form}).refusal(t, http.StatusMethodNotAllowed, "MethodNotAllowed")
}
