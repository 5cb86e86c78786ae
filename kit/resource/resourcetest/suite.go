package resourcetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/labels"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

// patience is how long an expected event may take on a busy machine.
const patience = 30 * time.Second

const namespace = "default"

// Run tests that what start returns behaves as a store of objects must. start is
// called for each test and returns an empty store.
func Run[T resource.Object](t *testing.T, start func(t *testing.T) Subject[T]) {
	cases := []struct {
		name string
		test func(*suite[T])
	}{
		{"create gives identity, version and time", (*suite[T]).createGivesIdentity},
		{"create refuses a name that is taken", (*suite[T]).createRefusesTakenName},
		{"create generates names", (*suite[T]).createGeneratesNames},
		{"of many creators of one name one wins", (*suite[T]).oneCreatorWins},
		{"get finds nothing where nothing is", (*suite[T]).getMissing},
		{"a read after a write sees it", (*suite[T]).readYourWrites},
		{"what is returned is the caller's own", (*suite[T]).resultsAreCopies},
		{"update counts changes of spec only", (*suite[T]).updateCountsGenerations},
		{"update writes nothing where nothing changes", (*suite[T]).updateWithoutChange},
		{"update refuses an old version", (*suite[T]).updateRefusesOldVersion},
		{"update refuses another object of the name", (*suite[T]).updateRefusesOtherUID},
		{"concurrent updates lose nothing", (*suite[T]).concurrentUpdates},
		{"delete removes an object", (*suite[T]).deleteRemoves},
		{"delete keeps an object with a finalizer", (*suite[T]).deleteWaitsForFinalizer},
		{"delete refuses other versions and objects", (*suite[T]).deletePreconditions},
		{"list selects and sorts", (*suite[T]).listSelects},
		{"pages show one moment under writes", (*suite[T]).pagesShowOneMoment},
		{"a page token of another list is refused", (*suite[T]).foreignToken},
		{"watch tells the present, then changes in order", (*suite[T]).watchFromNothing},
		{"watch resumes after a version, once each", (*suite[T]).watchResumes},
		{"watch with a selector tells who joins and leaves", (*suite[T]).watchSelector},
		{"watch keeps to its namespace", (*suite[T]).watchNamespace},
		{"watch refuses a version of no store", (*suite[T]).watchFromTheFuture},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
			defer cancel()
			c.test(&suite[T]{T: t, ctx: ctx, Subject: start(t)})
		})
	}
}

type suite[T resource.Object] struct {
	*testing.T
	Subject[T]
	ctx context.Context
}

func (s *suite[T]) createGivesIdentity() {
	before := time.Now().Add(-time.Second)
	obj := s.create("a", nil)
	m := obj.GetMetadata()
	if m.GetUid() == "" || m.GetResourceVersion() == "" {
		s.Errorf("uid %q, version %q: want both", m.GetUid(), m.GetResourceVersion())
	}
	if m.GetGeneration() != 1 {
		s.Errorf("generation %d, want 1", m.GetGeneration())
	}
	if m.GetCreationTimestamp().AsTime().Before(before.Truncate(time.Second)) {
		s.Errorf("created at %s, want now", m.GetCreationTimestamp().AsTime())
	}
	if obj.GetKind() == "" || obj.GetApiVersion() == "" {
		s.Errorf("kind %q of %q: want both", obj.GetKind(), obj.GetApiVersion())
	}
	if other := s.create("b", nil); other.GetMetadata().GetUid() == m.GetUid() {
		s.Error("two objects have one uid")
	}
}

func (s *suite[T]) createRefusesTakenName() {
	s.create("a", nil)
	_, err := s.Create(s.ctx, s.New(s.meta("a", nil)))
	s.wantFault(err, fault.Exists, resource.ReasonAlreadyExists)
}

func (s *suite[T]) createGeneratesNames() {
	names := map[string]bool{}
	for range 3 {
		obj, err := s.Create(s.ctx, s.New(&metav1.ObjectMeta{Namespace: namespace, GenerateName: "made-"}))
		s.noError(err)
		name := obj.GetMetadata().GetName()
		if !strings.HasPrefix(name, "made-") || names[name] {
			s.Errorf("name %q: want a new one that begins with made-", name)
		}
		names[name] = true
	}
}

func (s *suite[T]) oneCreatorWins() {
	const creators = 8
	errs := make([]error, creators)
	var all sync.WaitGroup
	for i := range creators {
		all.Go(func() { _, errs[i] = s.Create(s.ctx, s.New(s.meta("same", nil))) })
	}
	all.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			s.wantFault(err, fault.Exists, resource.ReasonAlreadyExists)
		}
	}
	if won != 1 {
		s.Errorf("%d creators won, want 1", won)
	}
}

func (s *suite[T]) getMissing() {
	_, err := s.Get(s.ctx, key("nothing"))
	s.wantFault(err, fault.NotFound, resource.ReasonNotFound)
}

func (s *suite[T]) readYourWrites() {
	for i := range 50 {
		obj := s.create(fmt.Sprintf("n%d", i), nil)
		s.same(obj, s.get(obj))
		s.ChangeSpec(obj)
		s.same(s.update(obj), s.get(obj))
	}
}

func (s *suite[T]) resultsAreCopies() {
	obj := s.create("a", map[string]string{"key": "stored"})
	want := s.get(obj)
	page, err := s.List(s.ctx, resource.ListOptions{})
	s.noError(err)
	for _, mine := range []T{obj, s.get(obj), page.Items[0]} {
		mine.GetMetadata().Labels["key"] = "scribbled"
	}
	s.same(want, s.get(obj))
}

func (s *suite[T]) updateCountsGenerations() {
	obj := s.create("a", nil)
	s.ChangeSpec(obj)
	obj = s.update(obj)
	if g := obj.GetMetadata().GetGeneration(); g != 2 {
		s.Errorf("generation %d after a change of spec, want 2", g)
	}
	obj.GetMetadata().Labels = map[string]string{"key": "value"}
	obj = s.update(obj)
	if g := obj.GetMetadata().GetGeneration(); g != 2 {
		s.Errorf("generation %d after a change of labels, want 2", g)
	}
}

func (s *suite[T]) updateWithoutChange() {
	obj := s.create("a", nil)
	s.same(obj, s.update(obj))
}

func (s *suite[T]) updateRefusesOldVersion() {
	old := s.create("a", nil)
	next := resource.Clone(old)
	s.ChangeSpec(next)
	s.update(next)
	s.ChangeSpec(old)
	_, err := s.Update(s.ctx, old)
	s.wantFault(err, fault.Stale, resource.ReasonConflict)
}

func (s *suite[T]) updateRefusesOtherUID() {
	obj := s.create("a", nil)
	obj.GetMetadata().ResourceVersion, obj.GetMetadata().Uid = "", "another"
	_, err := s.Update(s.ctx, obj)
	s.wantFault(err, fault.Stale, resource.ReasonConflict)
}

func (s *suite[T]) concurrentUpdates() {
	const writers = 8
	s.create("a", nil)
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() { s.addLabel(fmt.Sprintf("writer%d", i)) })
	}
	all.Wait()
	obj, err := s.Get(s.ctx, key("a"))
	s.noError(err)
	if n := len(obj.GetMetadata().GetLabels()); n != writers {
		s.Errorf("%d labels of %d writers are left", n, writers)
	}
}

// addLabel reads, changes and writes until no one comes between.
func (s *suite[T]) addLabel(label string) {
	for {
		obj, err := s.Get(s.ctx, key("a"))
		if err == nil {
			if obj.GetMetadata().Labels == nil {
				obj.GetMetadata().Labels = map[string]string{}
			}
			obj.GetMetadata().Labels[label] = "here"
			_, err = s.Update(s.ctx, obj)
		}
		if err == nil {
			return
		}
		if !fault.Is(err, fault.Stale) {
			s.Errorf("update: %v", err)
			return
		}
	}
}

func (s *suite[T]) deleteRemoves() {
	obj := s.create("a", nil)
	last, err := s.Delete(s.ctx, key("a"), resource.Preconditions{})
	s.noError(err)
	if !resource.Gone(last) || !resource.Newer(last.GetMetadata().GetResourceVersion(), obj.GetMetadata().GetResourceVersion()) {
		s.Errorf("returned %v: want the last state, with a newer version", last.GetMetadata())
	}
	_, err = s.Get(s.ctx, key("a"))
	s.wantFault(err, fault.NotFound, resource.ReasonNotFound)
	_, err = s.Delete(s.ctx, key("a"), resource.Preconditions{})
	s.wantFault(err, fault.NotFound, resource.ReasonNotFound)
	if again := s.create("a", nil); again.GetMetadata().GetUid() == obj.GetMetadata().GetUid() {
		s.Error("a new object has the uid of the deleted one")
	}
}

func (s *suite[T]) deleteWaitsForFinalizer() {
	m := s.meta("a", nil)
	m.Finalizers = []string{"example.com/wait"}
	_, err := s.Create(s.ctx, s.New(m))
	s.noError(err)
	first, err := s.Delete(s.ctx, key("a"), resource.Preconditions{})
	s.noError(err)
	if !resource.Terminating(first) || resource.Gone(first) {
		s.Fatalf("got %v: want it to be terminating, not gone", first.GetMetadata())
	}
	second, err := s.Delete(s.ctx, key("a"), resource.Preconditions{})
	s.noError(err)
	s.same(first, second)
	second.GetMetadata().Finalizers = nil
	if last := s.update(second); !resource.Gone(last) {
		s.Errorf("got %v: want it gone with its last finalizer", last.GetMetadata())
	}
	_, err = s.Get(s.ctx, key("a"))
	s.wantFault(err, fault.NotFound, resource.ReasonNotFound)
}

func (s *suite[T]) deletePreconditions() {
	obj := s.create("a", nil)
	for _, pre := range []resource.Preconditions{{UID: "another"}, {ResourceVersion: "1"}} {
		_, err := s.Delete(s.ctx, key("a"), pre)
		s.wantFault(err, fault.Stale, resource.ReasonConflict)
	}
	m := obj.GetMetadata()
	_, err := s.Delete(s.ctx, key("a"), resource.Preconditions{UID: m.GetUid(), ResourceVersion: m.GetResourceVersion()})
	s.noError(err)
}

func (s *suite[T]) listSelects() {
	for _, name := range []string{"b", "a-1", "a", "c"} {
		s.create(name, map[string]string{"name": name})
	}
	other := s.meta("elsewhere", nil)
	other.Namespace = "other"
	_, err := s.Create(s.ctx, s.New(other))
	s.noError(err)

	selector, err := labels.Parse("name in (a,b,c)")
	s.noError(err)
	cases := []struct {
		opts resource.ListOptions
		want string
	}{
		{resource.ListOptions{}, "a a-1 b c elsewhere"},
		{resource.ListOptions{Namespace: namespace}, "a a-1 b c"},
		{resource.ListOptions{Namespace: "other"}, "elsewhere"},
		{resource.ListOptions{Namespace: "none"}, ""},
		{resource.ListOptions{Selector: selector}, "a b c"},
	}
	for _, c := range cases {
		page, err := s.List(s.ctx, c.opts)
		s.noError(err)
		if got := names(page.Items); got != c.want {
			s.Errorf("%+v lists %q, want %q", c.opts, got, c.want)
		}
	}
}

func (s *suite[T]) pagesShowOneMoment() {
	for _, name := range []string{"a", "c", "d", "e", "g"} {
		s.create(name, nil)
	}
	first, err := s.List(s.ctx, resource.ListOptions{PageSize: 2})
	s.noError(err)

	s.create("b", nil)  // before the next page
	s.create("f", nil)  // within it
	s.create("zz", nil) // after the end
	s.remove("d")       // the first of the next page
	s.remove("g")       // the last one
	changed := s.named("e")
	s.ChangeSpec(changed)
	s.update(changed)

	got, token := names(first.Items), first.NextPageToken
	for token != "" {
		page, err := s.List(s.ctx, resource.ListOptions{PageSize: 2, PageToken: token})
		s.noError(err)
		if page.ResourceVersion != first.ResourceVersion {
			s.Errorf("a page shows version %s, the first %s", page.ResourceVersion, first.ResourceVersion)
		}
		for _, obj := range page.Items {
			if obj.GetMetadata().GetGeneration() != 1 {
				s.Errorf("%s is shown as it was changed later", obj.GetMetadata().GetName())
			}
		}
		got, token = got+" "+names(page.Items), page.NextPageToken
	}
	if got != "a c d e g" {
		s.Errorf("pages show %q, want %q", got, "a c d e g")
	}
}

func (s *suite[T]) foreignToken() {
	s.create("a", nil)
	s.create("b", nil)
	page, err := s.List(s.ctx, resource.ListOptions{Namespace: namespace, PageSize: 1})
	s.noError(err)
	_, err = s.List(s.ctx, resource.ListOptions{Namespace: "other", PageSize: 1, PageToken: page.NextPageToken})
	s.wantFault(err, fault.Invalid, fault.ReasonInvalid)
	_, err = s.List(s.ctx, resource.ListOptions{PageToken: "nonsense"})
	s.wantFault(err, fault.Invalid, fault.ReasonInvalid)
}

func (s *suite[T]) same(want, got T) {
	s.Helper()
	if !proto.Equal(want, got) {
		s.Errorf("got  %v\nwant %v", got, want)
	}
}
