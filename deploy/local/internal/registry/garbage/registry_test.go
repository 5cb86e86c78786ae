package garbage_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the storage
	"github.com/sirupsen/logrus"

	"orlop.dev/deploy/local/internal/registry/garbage"
)

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// store is the real registry with a collector on its storage.
type store struct {
	*garbage.Collector
	dir string
	url string
}

func open(dir string, o garbage.Options) (*garbage.Collector, http.Handler, error) {
	logrus.SetOutput(io.Discard)
	o.Dir, o.Trash = filepath.Join(dir, "registry"), filepath.Join(dir, "trash")
	c, err := garbage.New(o)
	if err != nil {
		return nil, nil, err
	}
	config := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem":  configuration.Parameters{"rootdirectory": o.Dir},
		"delete":      configuration.Parameters{"enabled": true},
		"maintenance": configuration.Parameters{"uploadpurging": map[any]any{"enabled": false}},
	}}
	config.HTTP.Secret, config.HTTP.RelativeURLs = "of a test", true
	config.Log.AccessLog.Disabled = true
	return c, c.Guard(handlers.NewApp(context.Background(), config)), nil
}

func run(t *testing.T, dir string, o garbage.Options) *store {
	t.Helper()
	c, handler, err := open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return &store{Collector: c, dir: dir, url: server.URL}
}

func (s *store) collect(t *testing.T) garbage.Report {
	t.Helper()
	report, err := s.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func (s *store) client() client { return client{url: s.url} }

// client speaks the distribution API.
type client struct{ url string }

func (c client) ask(method, target, body string, header ...string) (*http.Response, string, error) {
	if !strings.HasPrefix(target, "http") {
		target = c.url + target
	}
	request, err := http.NewRequestWithContext(context.Background(), method, target, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response, string(text), err
}

// want is ask for who knows the answer's status.
func (c client) want(status int, method, target, body string, header ...string) (*http.Response, error) {
	response, text, err := c.ask(method, target, body, header...)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != status {
		return response, fmt.Errorf("%s %s: %d %s, want %d", method, target, response.StatusCode, text, status)
	}
	return response, nil
}

func (c client) begin(repository string) (string, error) {
	response, err := c.want(http.StatusAccepted, http.MethodPost, "/v2/"+repository+"/blobs/uploads/", "")
	if err != nil {
		return "", err
	}
	return c.url + response.Header.Get("Location"), nil
}

func (c client) commit(location, content string) error {
	upload, err := url.Parse(location)
	if err != nil {
		return err
	}
	query := upload.Query()
	query.Set("digest", digest(content))
	upload.RawQuery = query.Encode()
	_, err = c.want(http.StatusCreated, http.MethodPut, upload.String(), content)
	return err
}

func (c client) pushBlob(repository, content string) error {
	location, err := c.begin(repository)
	if err != nil {
		return err
	}
	return c.commit(location, content)
}

// mount reports whether the other repository had the blob.
func (c client) mount(repository, from, content string) (bool, error) {
	response, text, err := c.ask(http.MethodPost,
		"/v2/"+repository+"/blobs/uploads/?from="+url.QueryEscape(from)+"&mount="+digest(content), "")
	if err != nil {
		return false, err
	}
	switch response.StatusCode {
	case http.StatusCreated:
		return true, nil
	case http.StatusAccepted:
		return false, c.commit(c.url+response.Header.Get("Location"), content)
	}
	return false, fmt.Errorf("a mount was answered %d %s", response.StatusCode, text)
}

func manifest(content string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/vnd.orlop.disk.v1+raw","digest":%q,"size":%d}]}`,
		manifestType, digest("{}"), digest(content), len(content))
}

func (c client) putManifest(repository, reference, text string) (int, error) {
	response, _, err := c.ask(http.MethodPut, "/v2/"+repository+"/manifests/"+reference, text, "Content-Type", manifestType)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, nil
}

// publish pushes an image of one blob.
func (c client) publish(repository, tag, content string) error {
	for _, blob := range []string{"{}", content} {
		if err := c.pushBlob(repository, blob); err != nil {
			return err
		}
	}
	status, err := c.putManifest(repository, tag, manifest(content))
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("the manifest was answered %d", status)
	}
	return err
}

func (c client) unpublish(repository, content string) error {
	_, err := c.want(http.StatusAccepted, http.MethodDelete, "/v2/"+repository+"/manifests/"+digest(manifest(content)), "")
	return err
}

// whole says what an image lacks.
func (c client) whole(repository, tag, content string) error {
	_, text, err := c.ask(http.MethodGet, "/v2/"+repository+"/manifests/"+tag, "", "Accept", manifestType)
	if err != nil {
		return err
	}
	if text != manifest(content) {
		return fmt.Errorf("%s:%s has the manifest %s", repository, tag, text)
	}
	for _, want := range []string{"{}", content} {
		_, got, err := c.ask(http.MethodGet, "/v2/"+repository+"/blobs/"+digest(want), "")
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s:%s: blob %s is %.200q", repository, tag, digest(want), got)
		}
	}
	return nil
}

func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func blobFile(dir, content string) string {
	name := strings.TrimPrefix(digest(content), "sha256:")
	return filepath.Join(dir, "registry", "docker", "registry", "v2", "blobs", "sha256", name[:2], name, "data")
}

func (s *store) has(content string) bool {
	_, err := os.Stat(blobFile(s.dir, content))
	return err == nil
}

// left are the files of the storage besides empty folders.
func left(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// slowBody gives its first part, tells, and waits before the second.
type slowBody struct {
	parts   []string
	reached chan struct{}
	goOn    chan struct{}
}

func newSlowBody(parts ...string) *slowBody {
	return &slowBody{parts: parts, reached: make(chan struct{}), goOn: make(chan struct{})}
}

func (b *slowBody) Read(p []byte) (int, error) {
	switch len(b.parts) {
	case 0:
		return 0, io.EOF
	case 1:
		close(b.reached)
		<-b.goOn
	}
	n := copy(p, b.parts[0])
	b.parts = b.parts[1:]
	return n, nil
}
