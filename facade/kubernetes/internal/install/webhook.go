package install

import (
	"context"
	"strings"

	admission "k8s.io/api/admissionregistration/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	webhookName           = "orlop-admission"
	webhookTimeoutSeconds = 10
)

// Webhook says where the API server reaches the facade.
type Webhook struct {
	// URL of the webhook, where the facade runs beside the API server.
	URL string
	// DefaultURL is where the API server has specs filled in.
	DefaultURL string
	// Service that leads to the facade, where it runs in the cluster.
	Service *admission.ServiceReference
	// CABundle verifies the webhook's certificate, in PEM.
	CABundle []byte
	// Exempt is the user name under which the facade itself writes.
	Exempt string
	// EvictionURL is where evictions of Pods are judged; nowhere where it is empty.
	EvictionURL string
}

// Defaulted are, by their kinds' names, the paths in specs of what services fill in.
type Defaulted map[string][]string

// ApplyWebhook registers the admission webhook for the definitions' kinds.
func ApplyWebhook(ctx context.Context, c client.Client, hook Webhook, definitions []*apiextensions.CustomResourceDefinition, defaulted Defaulted) error {
	if err := apply(ctx, c, hook.defaults(definitions, defaulted)); err != nil {
		return err
	}
	return apply(ctx, c, hook.configuration(definitions))
}

// defaults asks for what is left out, and for nothing else: each kind by itself,
// as only it has its fields.
func (w Webhook) defaults(definitions []*apiextensions.CustomResourceDefinition, defaulted Defaulted) *admission.MutatingWebhookConfiguration {
	config := &admission.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: webhookName}}
	for _, definition := range definitions {
		fields := defaulted[definition.Spec.Names.Kind]
		if len(fields) == 0 {
			continue
		}
		fail, equivalent, none, timeout := admission.Fail, admission.Equivalent, admission.SideEffectClassNone, int32(webhookTimeoutSeconds)
		var left []string
		for _, field := range fields {
			left = append(left, leftOut(field))
		}
		config.Webhooks = append(config.Webhooks, admission.MutatingWebhook{
			Name:                    definition.Spec.Names.Singular + ".default.orlop.dev",
			ClientConfig:            w.clientConfigOf(w.DefaultURL),
			FailurePolicy:           &fail,
			MatchPolicy:             &equivalent,
			SideEffects:             &none,
			TimeoutSeconds:          &timeout,
			AdmissionReviewVersions: []string{"v1"},
			Rules:                   []admission.RuleWithOperations{webhookRule(definition)},
			MatchConditions: []admission.MatchCondition{
				{Name: "not-the-facade", Expression: "request.userInfo.username != '" + w.Exempt + "'"},
				{Name: "left-out", Expression: "has(object.spec) && (" + strings.Join(left, " || ") + ")"},
				{Name: "not-deleting", Expression: "!has(object.metadata.deletionTimestamp)"},
			},
		})
	}
	return config
}

// leftOut is true of a spec without that field. What the field is in is the
// schema's to ask for.
func leftOut(path string) string {
	field := "object.spec." + path
	condition := "!has(" + field + ") || " + field + " == ''"
	for dot := strings.LastIndex(path, "."); dot >= 0; dot = strings.LastIndex(path[:dot], ".") {
		condition = "has(object.spec." + path[:dot] + ") && (" + condition + ")"
	}
	return "(" + condition + ")"
}

// configuration asks the services only about a changed spec, or annotations,
// which some of them judge, and never about the facade's own writes: status,
// finalizers and deletion must work whatever state the services are in.
func (w Webhook) configuration(definitions []*apiextensions.CustomResourceDefinition) *admission.ValidatingWebhookConfiguration {
	fail, equivalent, none := admission.Fail, admission.Equivalent, admission.SideEffectClassNone
	timeout := int32(webhookTimeoutSeconds)
	config := &admission.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: webhookName}}
	config.Webhooks = []admission.ValidatingWebhook{{
		Name:                    "admission.orlop.dev",
		ClientConfig:            w.clientConfigOf(w.URL),
		FailurePolicy:           &fail,
		MatchPolicy:             &equivalent,
		SideEffects:             &none,
		TimeoutSeconds:          &timeout,
		AdmissionReviewVersions: []string{"v1"},
		MatchConditions: []admission.MatchCondition{
			{Name: "not-the-facade", Expression: "request.userInfo.username != '" + w.Exempt + "'"},
			{Name: "changed", Expression: "request.operation == 'CREATE' || " +
				changed("spec", "object", "oldObject") + " || " + changed("annotations", "object.metadata", "oldObject.metadata")},
			{Name: "not-deleting", Expression: "!has(object.metadata.deletionTimestamp)"},
		},
	}}
	for _, definition := range definitions {
		config.Webhooks[0].Rules = append(config.Webhooks[0].Rules, webhookRule(definition))
	}
	if w.EvictionURL != "" {
		config.Webhooks = append(config.Webhooks, w.evictions())
	}
	return config
}

// changed is true of a field that is another than before.
func changed(field, now, before string) string {
	now, before = now+"."+field, before+"."+field
	return "(has(" + now + ") ? (!has(" + before + ") || " + now + " != " + before + ") : has(" + before + "))"
}

// evictions asks about the evictions of all Pods: what is evicted can't be told
// by an Eviction's labels. It fails closed, as an eviction that is let through
// would take the Pod from a VM that stays.
func (w Webhook) evictions() admission.ValidatingWebhook {
	fail, effects := admission.Fail, admission.SideEffectClassNoneOnDryRun
	timeout, scope := int32(webhookTimeoutSeconds), admission.NamespacedScope
	return admission.ValidatingWebhook{
		Name:                    "eviction.orlop.dev",
		ClientConfig:            admission.WebhookClientConfig{CABundle: w.CABundle, URL: &w.EvictionURL},
		FailurePolicy:           &fail,
		SideEffects:             &effects,
		TimeoutSeconds:          &timeout,
		AdmissionReviewVersions: []string{"v1"},
		Rules: []admission.RuleWithOperations{{
			Operations: []admission.OperationType{admission.Create},
			Rule: admission.Rule{
				APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/eviction"}, Scope: &scope,
			},
		}},
	}
}

func (w Webhook) clientConfigOf(url string) admission.WebhookClientConfig {
	config := admission.WebhookClientConfig{CABundle: w.CABundle, Service: w.Service}
	if w.Service == nil {
		config.URL = &url
	}
	return config
}

func webhookRule(definition *apiextensions.CustomResourceDefinition) admission.RuleWithOperations {
	scope := admission.ScopeType(definition.Spec.Scope)
	return admission.RuleWithOperations{
		Operations: []admission.OperationType{admission.Create, admission.Update},
		Rule: admission.Rule{
			APIGroups:   []string{definition.Spec.Group},
			APIVersions: []string{definition.Spec.Versions[0].Name},
			Resources:   []string{definition.Spec.Names.Plural},
			Scope:       &scope,
		},
	}
}
