package containerimage

import (
	"maps"
	"path"
	"strings"

	"orlop.dev/services/image/internal/failure"
)

const (
	diskDir = "disk"
	// whiteout begins the names of files that say what lower layers no longer have,
	// opaque is that of one which says so of its whole directory (OCI image
	// specification, Layer Filesystem Changeset).
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	// maxShadows bounds what is remembered of upper layers.
	maxShadows = 4096
)

// shadow is what upper layers hide of the lower ones, as far as it is of interest.
type shadow struct {
	// gone are paths that are hidden with all below them; below are directories of
	// which only what is in them is hidden, and at are directories that hide a file
	// of their name.
	gone, below, at map[string]bool
}

func newShadow() shadow {
	return shadow{gone: map[string]bool{}, below: map[string]bool{}, at: map[string]bool{}}
}

// hides reports whether a path of a lower layer can't be seen.
func (s shadow) hides(name string) bool {
	if s.gone[name] || s.at[name] {
		return true
	}
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if s.gone[dir] || s.below[dir] {
			return true
		}
		if dir == "." {
			return false
		}
	}
}

// note remembers what an entry hides below it. It reports whether the entry is a
// whiteout, which is no file of the image.
func (s shadow) note(name string) (bool, error) {
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	switch {
	case base == opaque:
		return true, s.add(s.below, dir)
	case strings.HasPrefix(base, whiteout):
		return true, s.add(s.gone, path.Join(dir, strings.TrimPrefix(base, whiteout)))
	}
	return false, nil
}

// add remembers a path that the disk may be at, below or above.
func (s shadow) add(to map[string]bool, name string) error {
	if name != "." && name != diskDir && !strings.HasPrefix(name, diskDir+"/") {
		return nil
	}
	if len(s.gone)+len(s.below)+len(s.at) >= maxShadows {
		return failure.Terminalf(ReasonPath, "the image has more than %d files below /%s", maxShadows, diskDir)
	}
	to[name] = true
	return nil
}

// join adds what another shadow hides.
func (s shadow) join(other shadow) {
	maps.Copy(s.gone, other.gone)
	maps.Copy(s.below, other.below)
	maps.Copy(s.at, other.at)
}

// clean is an entry's name as a relative path. Names that lead out of the image
// are refused, wherever they would lead.
func clean(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", failure.Terminalf(ReasonPath, "the image has an entry %q, whose path leads upwards", name)
		}
	}
	return path.Clean(strings.TrimLeft(path.Clean("/"+name), "/")), nil
}
