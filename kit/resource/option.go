package resource

import (
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/resource/schema"
)

// Options tune a Collection. The zero value works.
type Options struct {
	// Finalizers are added to each object at its creation. They are the owning
	// service's: only RemoveFinalizer takes them away.
	Finalizers []string
	// Schema, where given, fills defaults into what is read from the store, so
	// that objects older than a default have it too.
	Schema *schema.Schema
	// HistoryEvents is how many changes are kept for watches to resume from;
	// 0 means 4096.
	HistoryEvents int
	// Now is the clock of timestamps; time.Now where it is nil.
	Now func() time.Time
	// Logger is slog.Default() where it is nil.
	Logger *slog.Logger
}

// ListOptions select the objects of a list.
type ListOptions struct {
	// Namespace is empty for all.
	Namespace string
	// Selector is nil for all.
	Selector labels.Selector
	// PageSize is the most objects in a page; 0 means 500, and 1000 is the limit.
	PageSize int
	// PageToken is the NextPageToken of the page before, empty for the first.
	PageToken string
}

// Page is a part of a list. All pages of a list show the state at the moment of
// the first.
type Page[T Object] struct {
	Items []T
	// NextPageToken is empty on the last page.
	NextPageToken string
	// ResourceVersion is the state that the page shows; a watch can start from it.
	ResourceVersion string
}

// WatchOptions select the changes of a watch.
type WatchOptions struct {
	Namespace string
	Selector  labels.Selector
	// ResourceVersion is where to start: the changes after it. Where it is empty
	// the present objects come first, as Added, and then a Bookmark.
	ResourceVersion string
}

// EventType says what happened to a watched object.
type EventType = metav1.EventType_Value

// The types of events.
const (
	Added    = metav1.EventType_Added
	Modified = metav1.EventType_Modified
	Deleted  = metav1.EventType_Deleted
	Bookmark = metav1.EventType_Bookmark
)

// Event is a change of an object. With a selector, Added and Deleted also mean
// that the object began or ceased to match.
type Event[T Object] struct {
	Type EventType
	// Object is the object after the change. For Deleted it is the last state,
	// with the version of its deletion. For Bookmark it is nil.
	Object T
	// ResourceVersion is the version to resume from after this event. It is empty
	// while the present objects are told: one can't resume in the middle of them.
	ResourceVersion string
	// Store is the identity of the store. Versions of different stores can't be
	// compared.
	Store string
}

// Preconditions must hold for a write. Empty ones always do.
type Preconditions struct{ UID, ResourceVersion string }
