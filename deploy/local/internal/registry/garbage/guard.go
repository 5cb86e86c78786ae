package garbage

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// maxManifestBytes is the registry's own bound, which refuses what is larger.
const maxManifestBytes = 4 << 20

// settled is the time of a claim that has ended.
var settled = time.Unix(0, 0)

// guard stands before the registry and tells the gate what requests need.
type guard struct {
	collector *Collector
	registry  http.Handler
}

// call is a request in the words of the distribution API.
type call struct {
	repository             repository
	blob, upload, manifest string // one of them; none for an upload to be begun
	// names is all that the collector must leave alone.
	names []string
	// Of a manifest that is pushed: the digests in it, its own, and whether a tag
	// will name it.
	claims []string
	pushed string
	tagged bool
}

// ServeHTTP implements http.Handler.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := g.parse(r)
	if !ok {
		g.registry.ServeHTTP(w, r)
		return
	}
	if c.manifest != "" && r.Method == http.MethodPut {
		if err := c.read(r); err != nil {
			http.Error(w, "the manifest can't be read", http.StatusBadRequest)
			return
		}
	}
	defer g.collector.gate.enter(c.names)()
	switch {
	case c.blob != "" && r.Method == http.MethodGet:
		g.registry.ServeHTTP(w, r) // a writer of our own would cost sendfile
	case c.blob != "" && r.Method == http.MethodDelete:
		g.release(w, r, c)
	default:
		answer := &answer{ResponseWriter: w}
		g.registry.ServeHTTP(answer, r)
		if answer.status >= 200 && answer.status < 300 {
			g.done(r.Method, c)
		}
	}
}

func (g *guard) parse(r *http.Request) (*call, bool) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok {
		return nil, false
	}
	c := &call{}
	var name string
	if i := strings.LastIndex(path, "/blobs/uploads/"); i >= 0 {
		name, c.upload = path[:i], path[i+len("/blobs/uploads/"):]
	} else if i := strings.LastIndex(path, "/blobs/"); i >= 0 {
		name, c.blob = path[:i], path[i+len("/blobs/"):]
	} else if i := strings.LastIndex(path, "/manifests/"); i >= 0 {
		name, c.manifest = path[:i], path[i+len("/manifests/"):]
	}
	// The registry refuses other names and digests, but only after this.
	if name == "" || strings.Contains(path, "..") || (c.blob != "" && !isDigest(c.blob)) || strings.Contains(c.upload, "/") {
		return nil, false
	}
	c.repository = g.collector.layout.repository(name)
	query := r.URL.Query()
	c.need(repositoryName(name), c.blob, query.Get("mount"), query.Get("digest"))
	if c.upload != "" {
		c.need(uploadName(c.upload))
	}
	if isDigest(c.manifest) {
		c.need(c.manifest)
	}
	if d := query.Get("digest"); d != "" && !strings.HasPrefix(d, "sha256:") {
		c.need(everything) // the registry will name the blob by another digest
	}
	return c, true
}

func (c *call) need(names ...string) {
	for _, name := range names {
		if name != "" {
			c.names = append(c.names, name)
		}
	}
}

// read takes what the manifest names out of the request's body, and puts it back.
func (c *call) read(r *http.Request) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxManifestBytes+1))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	c.pushed, c.tagged = "sha256:"+hex.EncodeToString(sum[:]), !isDigest(c.manifest)
	c.claims = digestsIn(text)
	c.need(c.pushed)
	c.need(c.claims...)
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(text), r.Body), r.Body}
	return nil
}

// done notes what a request that succeeded means for claims.
func (g *guard) done(method string, c *call) {
	now := g.collector.options.Now()
	switch {
	case c.blob != "" && method == http.MethodHead:
		touch(c.repository.layer(c.blob), now) // a push is going to rely on it
	case c.upload != "":
		touch(c.repository.upload(c.upload), now)
	case c.pushed != "":
		for _, d := range c.claims {
			touch(c.repository.layer(d), settled)
		}
		if c.tagged {
			touch(c.repository.revision(c.pushed), settled)
		}
	case c.manifest != "" && method == http.MethodDelete:
		g.collector.soon()
	}
}

// touch sets a file's time. What isn't there has nothing to be kept for.
func touch(path string, at time.Time) { _ = os.Chtimes(path, at, at) }

// release ends a claim: the client doesn't want the blob any more, but what else
// needs it keeps it. The registry would break a manifest that names it.
func (g *guard) release(w http.ResponseWriter, r *http.Request, c *call) {
	look := r.Clone(r.Context())
	look.Method = http.MethodHead
	seen := &answer{ResponseWriter: silent{w}}
	g.registry.ServeHTTP(seen, look)
	if seen.status != http.StatusOK {
		w.WriteHeader(seen.status)
		return
	}
	touch(c.repository.layer(c.blob), settled)
	for name := range w.Header() {
		w.Header().Del(name)
	}
	w.WriteHeader(http.StatusAccepted)
	g.collector.soon()
}

// answer remembers the status of a response.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// silent keeps a response's headers and nothing else.
type silent struct{ http.ResponseWriter }

func (silent) WriteHeader(int)             {}
func (silent) Write(p []byte) (int, error) { return len(p), nil }
