package resource

import (
	"fmt"
	"strconv"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/manifest"
)

// encode returns obj as it is stored: without its version, which etcd keeps.
func (c *Collection[T]) encode(obj T) ([]byte, error) {
	bare := Clone(obj)
	meta(c.kind, bare).ResourceVersion = ""
	value, err := proto.Marshal(bare)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, fault.ReasonInternal, "the object can't be encoded")
	}
	return value, nil
}

// decode reads a stored object and gives it its version and the defaults that
// came after it.
func (c *Collection[T]) decode(kv *mvccpb.KeyValue) (T, error) {
	obj, err := c.unmarshal(kv.Value, kv.ModRevision)
	if err != nil {
		return obj, fmt.Errorf("read %s: %w", kv.Key, err)
	}
	return obj, nil
}

func (c *Collection[T]) unmarshal(value []byte, revision int64) (T, error) {
	obj := c.kind.Type.New().Interface().(T)
	if err := proto.Unmarshal(value, obj); err != nil {
		return obj, err
	}
	if c.opts.Schema != nil {
		if err := c.fillDefaults(obj); err != nil {
			return obj, err
		}
	}
	meta(c.kind, obj).ResourceVersion = version(revision)
	return obj, nil
}

func (c *Collection[T]) fillDefaults(obj T) error {
	m, err := manifest.Encode(obj)
	if err != nil {
		return err
	}
	c.opts.Schema.Default(m)
	return manifest.Decode(m, obj)
}

// version writes an etcd revision as a resource version.
func version(revision int64) string { return strconv.FormatInt(revision, 10) }

// parseVersion reads a resource version: false if it isn't one of ours.
func parseVersion(v string) (int64, bool) {
	n, err := strconv.ParseInt(v, 10, 64)
	return n, err == nil && n >= 0
}

// Newer reports whether version a is newer than b. Versions of one store compare
// as numbers; what is no version is older than any.
func Newer(a, b string) bool {
	x, okX := parseVersion(a)
	y, okY := parseVersion(b)
	return okX && (!okY || x > y)
}
