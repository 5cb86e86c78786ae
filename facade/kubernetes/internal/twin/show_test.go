package twin

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
)

func TestRecount(t *testing.T) {
	type values = map[string]any
	with := func(top, inner int64) values {
		return values{"observedGeneration": top, "phase": "Ready", "conditions": []any{
			values{"type": "Ready", "observedGeneration": inner, "message": "2"},
		}}
	}
	for _, test := range []struct {
		reason string
		status values
		g      generations
		want   values
	}{
		{"the service counts more changes", with(4, 4), generations{service: 4, kubernetes: 3, agreed: true}, with(3, 3)},
		{"the service counts fewer changes", with(1, 1), generations{service: 1, kubernetes: 7, agreed: true}, with(7, 7)},
		{"the service has not looked yet", with(3, 4), generations{service: 4, kubernetes: 3, agreed: true}, with(2, 3)},
		{"the service has not heard yet", with(4, 4), generations{service: 4, kubernetes: 3, agreed: false}, with(2, 2)},
		{"a status without counts", values{"phase": "Ready"}, generations{service: 1, kubernetes: 1}, values{"phase": "Ready"}},
		{"a text of that name is none", values{"observedGeneration": "4"}, generations{service: 4, kubernetes: 3}, values{"observedGeneration": "4"}},
		{"no status", nil, generations{service: 1, kubernetes: 1}, nil},
	} {
		t.Run(test.reason, func(t *testing.T) {
			recount(test.status, test.g)
			if !equality.Semantic.DeepEqual(test.status, test.want) {
				t.Errorf("got %v, want %v", test.status, test.want)
			}
		})
	}
}

func TestWithRefusal(t *testing.T) {
	refusal := fault.New(fault.Invalid, "TooSmall", "the disk is too small")
	cr := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"generation": int64(5)}}}
	ready := map[string]any{"type": "Ready", "status": "True"}

	first := withRefusal(map[string]any{"conditions": []any{ready}}, cr, refusal)
	conditions := first["conditions"].([]any)
	if len(conditions) != 2 || !equality.Semantic.DeepEqual(conditions[0], ready) {
		t.Fatalf("the service's own conditions are %v", conditions)
	}
	condition := conditions[1].(map[string]any)
	if condition["type"] != conditionSynced || condition["status"] != "False" || condition["reason"] != "TooSmall" ||
		condition["message"] != "the disk is too small" || condition["observedGeneration"] != int64(5) {
		t.Errorf("the condition is %v", condition)
	}

	const since = "2020-01-02T03:04:05Z"
	condition["lastTransitionTime"] = since
	cr.Object["status"] = first
	again := withRefusal(nil, cr, refusal)["conditions"].([]any)[0].(map[string]any)
	if again["lastTransitionTime"] != since {
		t.Errorf("the same refusal is of %v", again["lastTransitionTime"])
	}
	other := withRefusal(nil, cr, fault.New(fault.Invalid, "TooLarge", "x"))["conditions"].([]any)[0].(map[string]any)
	if other["lastTransitionTime"] == since {
		t.Error("another refusal is as old as the first")
	}
}

func TestAgreementOf(t *testing.T) {
	for _, test := range []struct {
		reason, annotation string
		want               Agreement
	}{
		{"its own", "digest/store/uid", Agreement{Digest: "digest", Store: "store"}},
		{"of an object with the same name, saved and applied again", "digest/store/other", Agreement{}},
		{"of what the facade is about to create", "digest/store/", Agreement{Digest: "digest", Store: "store"}},
		{"none", "", Agreement{}},
		{"written by somebody else", "digest", Agreement{}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			cr := new(unstructured.Unstructured)
			cr.SetUID("uid")
			if test.annotation != "" {
				cr.SetAnnotations(map[string]string{agreementAnnotation: test.annotation})
			}
			if got := agreementOf(cr); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
	cr := new(unstructured.Unstructured)
	cr.SetUID("uid")
	want := Agreement{Digest: "d", Store: "s"}
	if remember(cr, want); agreementOf(cr) != want {
		t.Errorf("what was remembered is %+v", agreementOf(cr))
	}
}

func TestPace(t *testing.T) {
	now := time.Unix(0, 0)
	p := newPace(func() time.Time { return now })
	key := resource.Key{Namespace: "a", Name: "b"}
	if p.wait(key, "x", "x") != 0 {
		t.Error("the first status waits")
	}
	p.wrote(key)
	now = now.Add(progressInterval / 4)
	if got := p.wait(key, "x", "x"); got != progressInterval*3/4 {
		t.Errorf("progress waits %s", got)
	}
	if p.wait(key, "x", "y") != 0 {
		t.Error("news waits")
	}
	if p.wait(resource.Key{Name: "other"}, "x", "x") != 0 {
		t.Error("an object waits for another")
	}
	now = now.Add(progressInterval)
	if p.wait(key, "x", "x") != 0 {
		t.Error("progress waits too long")
	}
	p.wrote(key)
	p.forget(key)
	if p.wait(key, "x", "x") != 0 || len(p.last) != 0 {
		t.Error("a forgotten object is remembered")
	}
}
