package garbage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// thing is something to be taken away: a file or folder, and by which names
// requests may need it.
type thing struct {
	path  string
	names []string
}

// things are what nobody needed when it was looked at, in the order in which
// they may go: what needs others first.
type things struct {
	tags, manifests, links, blobs, uploads []thing
}

// search is one look at the storage.
type search struct {
	layout layout
	// Claims and uploads before these times have run out.
	claims, uploads time.Time
	needed          map[string]bool // blobs
	found           things
}

// find looks for what nobody needs. An error means that it can't be known.
func (c *Collector) find(ctx context.Context) (things, error) {
	now := c.options.Now()
	s := &search{
		layout: c.layout, needed: map[string]bool{},
		claims: now.Add(-c.options.Grace), uploads: now.Add(-c.options.UploadAge),
	}
	if err := s.folder(ctx, ""); err != nil {
		return things{}, fmt.Errorf("look for what is needed: %w", err)
	}
	if err := s.blobs(); err != nil {
		return things{}, fmt.Errorf("look for blobs: %w", err)
	}
	return s.found, nil
}

// folder looks through a folder of repositories, which may be one itself.
func (s *search) folder(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := list(s.layout.repository(name).dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry, "_") {
			continue
		}
		if err := s.folder(ctx, strings.TrimPrefix(name+"/"+entry, "/")); err != nil {
			return err
		}
	}
	if name == "" {
		return nil
	}
	r := s.layout.repository(name)
	return errors.Join(s.manifestsAndLinks(r), s.oldUploads(r))
}

func (s *search) manifestsAndLinks(r repository) error {
	revisions, err := links(r.revisions())
	if err != nil {
		return err
	}
	roots, err := s.roots(r, revisions)
	if err != nil {
		return err
	}
	named, err := s.reach(revisions, roots)
	if err != nil {
		return err
	}
	for digest, l := range revisions {
		if named[digest] {
			s.needed[digest] = true
			continue
		}
		entries, err := filepath.Glob(filepath.Join(r.tags(), "*", "index", filepath.FromSlash(strings.Replace(digest, ":", "/", 1))))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			s.found.tags = append(s.found.tags, thing{path: entry, names: []string{digest}})
		}
		s.found.manifests = append(s.found.manifests, thing{path: l.dir, names: []string{digest}})
	}
	layers, err := links(r.layers())
	if err != nil {
		return err
	}
	for digest, l := range layers {
		if named[digest] || named[l.target] || !l.at.Before(s.claims) {
			s.needed[digest], s.needed[l.target] = true, true
			continue
		}
		s.found.links = append(s.found.links, thing{path: l.dir, names: []string{digest, l.target}})
	}
	return nil
}

// roots are the manifests that tags name, and those that may still get a tag.
// Tags of manifests that are gone go, too.
func (s *search) roots(r repository, revisions map[string]linked) ([]string, error) {
	var roots []string
	tags, err := list(r.tags())
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		dir := filepath.Join(r.tags(), tag)
		l, err := readLink(filepath.Join(dir, "current"))
		if err != nil {
			return nil, err
		}
		if _, ok := revisions[l.target]; ok {
			roots = append(roots, l.target)
		} else if l.target != "" {
			s.found.tags = append(s.found.tags, thing{path: dir, names: []string{l.target}})
		}
	}
	for digest, l := range revisions {
		if !l.at.Before(s.claims) {
			roots = append(roots, digest)
		}
	}
	return roots, nil
}

// reach follows manifests from roots on and returns the digests of all that they
// name, themselves included. Whatever looks like a digest counts as one.
func (s *search) reach(revisions map[string]linked, roots []string) (map[string]bool, error) {
	named := map[string]bool{}
	for len(roots) > 0 {
		digest := roots[0]
		roots = roots[1:]
		if named[digest] {
			continue
		}
		named[digest] = true
		if _, ok := revisions[digest]; !ok {
			continue // a blob, or a manifest of another repository
		}
		text, err := os.ReadFile(filepath.Join(s.layout.blob(digest), "data"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		roots = append(roots, digestsIn(text)...)
	}
	for digest := range named {
		s.needed[digest] = true
	}
	return named, nil
}

func (s *search) oldUploads(r repository) error {
	ids, err := list(r.uploads())
	if err != nil {
		return err
	}
	for _, id := range ids {
		dir := r.upload(id)
		last, err := latest(dir, filepath.Join(dir, "data"), filepath.Join(dir, "startedat"), filepath.Join(dir, "hashstates", "sha256"))
		if err != nil {
			return err
		}
		if last.Before(s.uploads) {
			s.found.uploads = append(s.found.uploads, thing{path: dir, names: []string{uploadName(id)}})
		}
	}
	return nil
}

func (s *search) blobs() error {
	dirs, err := filepath.Glob(filepath.Join(s.layout.blobs(), "*", "??", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		digest := filepath.Base(filepath.Dir(filepath.Dir(dir))) + ":" + filepath.Base(dir)
		if isDigest(digest) && !s.needed[digest] {
			s.found.blobs = append(s.found.blobs, thing{path: dir, names: []string{digest}})
		}
	}
	return nil
}

// linked is a link of the registry's.
type linked struct {
	dir    string // its folder
	target string // the digest that it leads to; "" where there is none
	at     time.Time
}

// links are the links in a folder, by the digests that they stand for.
func links(dir string) (map[string]linked, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		return nil, err
	}
	all := make(map[string]linked, len(paths))
	for _, path := range paths {
		digest := filepath.Base(filepath.Dir(path)) + ":" + filepath.Base(path)
		l, err := readLink(path)
		if err != nil {
			return nil, err
		}
		if isDigest(digest) && l.target != "" {
			all[digest] = l
		}
	}
	return all, nil
}

// readLink reads the link in a folder; one that has gone has no target.
func readLink(dir string) (linked, error) {
	path := filepath.Join(dir, link)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return linked{}, nil
	}
	if err != nil {
		return linked{}, err
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return linked{}, nil
	}
	if err != nil {
		return linked{}, err
	}
	return linked{dir: dir, target: string(text), at: info.ModTime()}, nil
}

// latest is the last time at which one of the files changed.
func latest(paths ...string) (time.Time, error) {
	var last time.Time
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return last, err
		}
		if at := info.ModTime(); at.After(last) {
			last = at
		}
	}
	return last, nil
}

// list returns the names in a folder, none where it isn't there.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}
