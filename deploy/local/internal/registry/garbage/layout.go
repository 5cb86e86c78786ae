package garbage

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
)

// layout is where the filesystem driver of the CNCF distribution keeps things:
//
//	blobs/sha256/ab/abc.../data
//	repositories/NAME/_layers/sha256/HEX/link
//	repositories/NAME/_manifests/revisions/sha256/HEX/link
//	repositories/NAME/_manifests/tags/TAG/{current/link,index/sha256/HEX/link}
//	repositories/NAME/_uploads/ID/{data,startedat,hashstates/}
type layout struct{ root string }

func newLayout(dir string) layout {
	return layout{root: filepath.Join(dir, "docker", "registry", "v2")}
}

const link = "link"

func (l layout) blobs() string        { return filepath.Join(l.root, "blobs") }
func (l layout) repositories() string { return filepath.Join(l.root, "repositories") }

// blob is the folder of a blob; "" if the digest is none.
func (l layout) blob(digest string) string {
	algorithm, hex, ok := split(digest)
	if !ok {
		return ""
	}
	return filepath.Join(l.blobs(), algorithm, hex[:2], hex)
}

func (l layout) repository(name string) repository {
	return repository{name: name, dir: filepath.Join(l.repositories(), filepath.FromSlash(name))}
}

// repository is the folder of a repository.
type repository struct{ name, dir string }

func (r repository) layers() string    { return filepath.Join(r.dir, "_layers") }
func (r repository) revisions() string { return filepath.Join(r.dir, "_manifests", "revisions") }
func (r repository) tags() string      { return filepath.Join(r.dir, "_manifests", "tags") }
func (r repository) uploads() string   { return filepath.Join(r.dir, "_uploads") }

func (r repository) upload(id string) string { return filepath.Join(r.uploads(), id) }

// layer is the file that links a blob into the repository.
func (r repository) layer(digest string) string { return within(r.layers(), digest) }

// revision is the file that links a manifest into the repository.
func (r repository) revision(digest string) string { return within(r.revisions(), digest) }

func within(dir, digest string) string {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return filepath.Join(dir, algorithm, hex, link)
}

var (
	digestForm = regexp.MustCompile(`^(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})$`)
	// digestText finds digests in documents of any kind.
	digestText = regexp.MustCompile(`sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}`)
)

// digestsIn are all digests in a document, those in JSON escapes included.
func digestsIn(text []byte) []string {
	found := digestText.FindAllString(string(text), -1)
	var document any
	if !bytes.Contains(text, []byte(`\`)) || json.Unmarshal(text, &document) != nil {
		return found
	}
	plain, err := json.Marshal(document)
	if err != nil {
		return found
	}
	return append(found, digestText.FindAllString(string(plain), -1)...)
}

func isDigest(text string) bool { return digestForm.MatchString(text) }

func split(digest string) (algorithm, hex string, ok bool) {
	if !isDigest(digest) {
		return "", "", false
	}
	return strings.Cut(digest, ":")
}
