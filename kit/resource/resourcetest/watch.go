package resourcetest

import (
	"context"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

func (s *suite[T]) watchFromNothing() {
	s.create("a", nil)
	s.create("b", nil)
	next := s.watch(resource.WatchOptions{})
	s.wantEvents(next, "+a +b =")
	obj := s.named("a")
	s.ChangeSpec(obj)
	s.update(obj)
	s.create("c", nil)
	s.remove("b")
	s.wantEvents(next, "~a +c -b")
}

func (s *suite[T]) watchResumes() {
	page, err := s.List(s.ctx, resource.ListOptions{})
	s.noError(err)
	s.create("a", nil)
	b := s.create("b", nil)
	s.remove("a")
	all := s.watch(resource.WatchOptions{ResourceVersion: page.ResourceVersion})
	s.wantEvents(all, "= +a +b -a")
	rest := s.watch(resource.WatchOptions{ResourceVersion: b.GetMetadata().GetResourceVersion()})
	s.wantEvents(rest, "= -a")
	s.create("c", nil)
	s.wantEvents(all, "+c")
	s.wantEvents(rest, "+c")
}

func (s *suite[T]) watchSelector() {
	selector, err := labels.Parse("tier=web")
	s.noError(err)
	s.create("out", nil)
	obj := s.create("in", map[string]string{"tier": "web"})
	next := s.watch(resource.WatchOptions{Selector: selector})
	s.wantEvents(next, "+in =")
	obj.GetMetadata().Labels["tier"] = "db"
	obj = s.update(obj)
	obj.GetMetadata().Labels["tier"] = "web"
	obj = s.update(obj)
	s.ChangeSpec(obj)
	s.update(obj)
	s.remove("out")
	s.remove("in")
	s.wantEvents(next, "-in +in ~in -in")
}

func (s *suite[T]) watchNamespace() {
	next := s.watch(resource.WatchOptions{Namespace: namespace})
	s.wantEvents(next, "=")
	other := s.meta("elsewhere", nil)
	other.Namespace = namespace + "-2"
	_, err := s.Create(s.ctx, s.New(other))
	s.noError(err)
	s.create("here", nil)
	s.wantEvents(next, "+here")
}

func (s *suite[T]) watchFromTheFuture() {
	for _, err := range s.Watch(s.ctx, resource.WatchOptions{ResourceVersion: "999999999"}) {
		s.wantFault(err, fault.Stale, resource.ReasonTooOld)
		return
	}
	s.Error("the watch ended without a word")
}

// watch runs a watch until the test ends, and returns its events.
func (s *suite[T]) watch(opts resource.WatchOptions) <-chan string {
	events := make(chan string)
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(events)
		for e, err := range s.Watch(ctx, opts) {
			text := "error"
			if err == nil {
				text = describe(e)
			}
			select {
			case events <- text:
			case <-ctx.Done():
			}
		}
	}()
	s.Cleanup(func() { cancel(); <-done })
	return events
}

// describe writes an event as a sign and a name. What can't be resumed from, or
// has the wrong object, is said to be broken.
func describe[T resource.Object](e resource.Event[T]) string {
	sign := map[resource.EventType]string{
		resource.Added: "+", resource.Modified: "~", resource.Deleted: "-", resource.Bookmark: "=",
	}[e.Type]
	switch {
	case e.Store == "":
		return "event without a store"
	case e.Type == resource.Bookmark && e.ResourceVersion == "":
		return "bookmark without a version"
	case e.Type == resource.Bookmark:
		return sign
	case e.ResourceVersion != "" && e.ResourceVersion != e.Object.GetMetadata().GetResourceVersion():
		return "event and object differ in version"
	}
	return sign + e.Object.GetMetadata().GetName()
}

// wantEvents reads as many events as are wanted. Bookmarks that aren't, and may
// come at any time, are skipped.
func (s *suite[T]) wantEvents(events <-chan string, want string) {
	s.Helper()
	var got []string
	for _, w := range strings.Fields(want) {
		e := s.next(events)
		for e == "=" && w != "=" {
			e = s.next(events)
		}
		if got = append(got, e); e != w {
			break
		}
	}
	if g := strings.Join(got, " "); g != want {
		s.Fatalf("events %q, want %q", g, want)
	}
}

func (s *suite[T]) next(events <-chan string) string {
	s.Helper()
	select {
	case e, ok := <-events:
		if !ok {
			s.Fatal("the watch ended")
		}
		return e
	case <-s.ctx.Done():
		s.Fatal("no event came")
	}
	return ""
}

func (s *suite[T]) meta(name string, labels map[string]string) *metav1.ObjectMeta {
	return &metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}
}

func (s *suite[T]) create(name string, labels map[string]string) T {
	s.Helper()
	obj, err := s.Create(s.ctx, s.New(s.meta(name, labels)))
	s.noError(err)
	return obj
}

func (s *suite[T]) update(obj T) T {
	s.Helper()
	updated, err := s.Update(s.ctx, obj)
	s.noError(err)
	return updated
}

func (s *suite[T]) remove(name string) {
	s.Helper()
	_, err := s.Delete(s.ctx, key(name), resource.Preconditions{})
	s.noError(err)
}

func (s *suite[T]) get(obj T) T {
	s.Helper()
	return s.named(obj.GetMetadata().GetName())
}

func (s *suite[T]) named(name string) T {
	s.Helper()
	got, err := s.Get(s.ctx, key(name))
	s.noError(err)
	return got
}

func (s *suite[T]) noError(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite[T]) wantFault(err error, class fault.Class, reason string) {
	s.Helper()
	if fault.ClassOf(err) != class || fault.ReasonOf(err) != reason {
		s.Errorf("got %v (%s, %s), want %s, %s", err, fault.ClassOf(err), fault.ReasonOf(err), class, reason)
	}
}

func key(name string) resource.Key { return resource.Key{Namespace: namespace, Name: name} }

func names[T resource.Object](items []T) string {
	all := make([]string, len(items))
	for i, obj := range items {
		all[i] = obj.GetMetadata().GetName()
	}
	return strings.Join(all, " ")
}
