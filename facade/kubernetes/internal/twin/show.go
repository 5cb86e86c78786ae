package twin

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubemeta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/manifest"
)

// progressInterval bounds how often a status is written that changed in
// nothing but progress.
const progressInterval = time.Second

// conditionSynced is the facade's own condition. It is there only while the
// service refuses what the custom resource says.
const conditionSynced = "Synced"

// status is what a custom resource's status should be: the service's, with
// generations counted as Kubernetes does.
func status(cr *unstructured.Unstructured, object resource.Object, agreed bool, refusal *fault.Fault) (map[string]any, error) {
	var result map[string]any
	if object != nil {
		content, err := manifest.Encode(object)
		if err != nil {
			return nil, err
		}
		result, _ = content["status"].(map[string]any)
		recount(result, generations{
			service: int64(object.GetMetadata().GetGeneration()), kubernetes: cr.GetGeneration(), agreed: agreed,
		})
		addMessages(result)
	}
	if refusal != nil {
		result = withRefusal(result, cr, refusal)
	}
	return result, nil
}

type generations struct {
	service, kubernetes int64
	// agreed is true while both specs are alike.
	agreed bool
}

// recount translates observedGeneration wherever it stands: the sides count
// changes apart from each other, and one may have missed some.
func recount(value any, g generations) {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			observed, isCount := inner.(int64)
			if key != "observedGeneration" || !isCount {
				recount(inner, g)
				continue
			}
			value[key] = g.kubernetes
			if observed < g.service || !g.agreed {
				value[key] = g.kubernetes - 1
			}
		}
	case []any:
		for _, inner := range value {
			recount(inner, g)
		}
	}
}

// addMessages writes empty messages of conditions: Kubernetes requires what a
// service's JSON leaves out.
func addMessages(status map[string]any) {
	conditions, _ := status["conditions"].([]any)
	for _, condition := range conditions {
		condition, ok := condition.(map[string]any)
		if _, found := condition["message"]; ok && !found {
			condition["message"] = ""
		}
	}
}

func withRefusal(result map[string]any, cr *unstructured.Unstructured, refusal *fault.Fault) map[string]any {
	if result == nil {
		result = map[string]any{}
	}
	since := kubemeta.Now().UTC().Format(time.RFC3339)
	if old := conditionOf(cr, conditionSynced); old != nil && old["reason"] == refusal.Reason {
		since, _ = old["lastTransitionTime"].(string)
	}
	conditions, _ := result["conditions"].([]any)
	result["conditions"] = append(conditions, map[string]any{
		"type": conditionSynced, "status": "False", "reason": refusal.Reason, "message": refusal.Message,
		"observedGeneration": cr.GetGeneration(), "lastTransitionTime": since,
	})
	return result
}

func conditionOf(cr *unstructured.Unstructured, name string) map[string]any {
	conditions, _, _ := unstructured.NestedSlice(cr.Object, "status", "conditions")
	for _, condition := range conditions {
		if condition, ok := condition.(map[string]any); ok && condition["type"] == name {
			return condition
		}
	}
	return nil
}

// show writes the status of the custom resource where it changed, and returns
// how long to wait where it changed in nothing but progress too soon.
func (c *Controller) show(ctx context.Context, p *pair, refusal *fault.Fault) (time.Duration, error) {
	if p.cr == nil || p.cr.GetUID() == "" {
		return 0, nil
	}
	wanted, err := status(p.cr, p.object, p.alike(), refusal)
	if err != nil {
		return 0, err
	}
	present, _ := p.cr.Object["status"].(map[string]any)
	if wanted == nil || equality.Semantic.DeepEqual(wanted, present) {
		return 0, nil
	}
	if wait := c.pace.wait(p.key, headline(present), headline(wanted)); wait > 0 {
		return wait, nil
	}
	shown := p.cr.DeepCopy()
	shown.Object["status"] = runtime.DeepCopyJSON(wanted)
	err = c.kube.Status().Update(ctx, shown)
	switch {
	case apierrors.IsNotFound(err):
		return 0, nil
	case apierrors.IsInvalid(err):
		// Only a refusal without any status can be that; its event was sent.
		c.logger.ErrorContext(ctx, "the API server refuses a status", "object", p.key, "error", err)
		return 0, nil
	case err != nil:
		return 0, err
	}
	c.pace.wrote(p.key)
	c.announce(p.cr, present, wanted)
	return 0, nil
}

// headline is what must not wait: phase and conditions.
func headline(status map[string]any) string {
	return fmt.Sprint(status["phase"], status["conditions"])
}
