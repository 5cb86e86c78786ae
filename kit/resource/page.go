package resource

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"orlop.dev/kit/fault"
)

const (
	defaultPageSize = 500
	maxPageSize     = 1000
)

// List returns a page of objects in the byte order of namespace/name. A later
// page shows the state of the first one, whatever was written in between; it
// fails with reason ReasonTooOld once that state is out of the history.
func (c *Collection[T]) List(ctx context.Context, opts ListOptions) (Page[T], error) {
	page, err := c.sharedList(ctx, opts)
	for i := range page.Items {
		page.Items[i] = Clone(page.Items[i])
	}
	return page, err
}

// sharedList is List without the copies: nobody may change its objects.
func (c *Collection[T]) sharedList(ctx context.Context, opts ListOptions) (Page[T], error) {
	if err := ctx.Err(); err != nil {
		return Page[T]{}, err
	}
	if err := c.replica.ready(); err != nil {
		return Page[T]{}, err
	}
	size, err := pageSize(opts.PageSize)
	if err != nil {
		return Page[T]{}, err
	}
	query := query{namespace: opts.Namespace, selector: opts.Selector, size: size}
	if query.token, err = parseToken(opts.PageToken, opts); err != nil {
		return Page[T]{}, err
	}
	items, next, err := c.replica.page(query)
	if err != nil {
		return Page[T]{}, err
	}
	page := Page[T]{Items: items, ResourceVersion: version(next.revision)}
	if next.after != "" {
		page.NextPageToken = next.String()
	}
	return page, nil
}

func pageSize(asked int) (int, error) {
	switch {
	case asked < 0:
		return 0, fault.Refuse("page_size", "FieldValueInvalid", "must not be negative")
	case asked == 0:
		return defaultPageSize, nil
	}
	return min(asked, maxPageSize), nil
}

// token says where a list goes on: after which path, in the state of which
// revision, and of which list. Callers must not look into it.
type token struct {
	revision int64
	list     string
	after    string
}

func (t token) String() string {
	text := version(t.revision) + "\n" + t.list + "\n" + t.after
	return base64.RawURLEncoding.EncodeToString([]byte(text))
}

// parseToken reads a token and refuses one of another list. The empty token is
// the beginning.
func parseToken(text string, opts ListOptions) (token, error) {
	list := opts.Namespace + "?" + selectorText(opts.Selector)
	if text == "" {
		return token{list: list}, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	parts := strings.SplitN(string(raw), "\n", 3)
	if err != nil || len(parts) != 3 {
		return token{}, fault.Refuse("page_token", "FieldValueInvalid", "is not a token of this service")
	}
	revision, ok := parseVersion(parts[0])
	if !ok || parts[1] != list {
		return token{}, fault.Refuse("page_token", "FieldValueInvalid", "is of another list")
	}
	return token{revision: revision, list: list, after: parts[2]}, nil
}

func selectorText(s labels.Selector) string {
	if s == nil {
		return ""
	}
	return strconv.Quote(s.String())
}

// query is one page's question to the copy.
type query struct {
	namespace string
	selector  labels.Selector
	size      int
	token     token
}

// page returns the objects of a page and the token of the next one, whose after
// is empty if there is none.
func (r *replica[T]) page(q query) ([]T, token, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	next := token{revision: r.revision, list: q.token.list}
	if q.token.after == "" {
		items, after := r.collect(q, r.overlay(r.history.next))
		next.after = after
		return items, next, nil
	}
	next.revision = q.token.revision
	position, known := r.history.after(q.token.revision)
	if !known || q.token.revision > r.revision {
		return nil, token{}, fault.New(fault.Stale, ReasonTooOld, "the list has changed too much since its first page: list again")
	}
	items, after := r.collect(q, r.overlay(position))
	next.after = after
	return items, next, nil
}

// overlay is what must be put over the present state to see the one before the
// record at position: by path, the older object, or the zero T where there was none.
func (r *replica[T]) overlay(position uint64) *older[T] {
	o := &older[T]{before: map[string]T{}}
	for p := r.history.next; p > position; p-- {
		change := r.history.at(p - 1)
		o.before[change.path] = change.before
	}
	o.sort()
	return o
}

// collect gathers up to q.size objects after q.token.after, and the path of the
// last one if more follow.
func (r *replica[T]) collect(q query, o *older[T]) (items []T, after string) {
	last := ""
	r.merged(prefixOf(q.namespace), q.token.after, o, func(i item[T]) bool {
		if !matches(q.selector, i.object) {
			return true
		}
		if len(items) == q.size {
			after = last
			return false
		}
		items, last = append(items, i.object), i.path
		return true
	})
	return items, after
}

// selected returns all objects of a namespace that selector selects, the revision
// they show, and the position in the history from which changes follow.
func (r *replica[T]) selected(namespace string, selector labels.Selector) (items []T, revision int64, position uint64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.below(prefixOf(namespace), "", func(i item[T]) bool {
		if matches(selector, i.object) {
			items = append(items, i.object)
		}
		return true
	})
	return items, r.revision, r.history.next
}

func prefixOf(namespace string) string {
	if namespace == "" {
		return ""
	}
	return namespace + "/"
}

func matches(s labels.Selector, o Object) bool {
	return s == nil || s.Empty() || s.Matches(labels.Set(o.GetMetadata().GetLabels()))
}
