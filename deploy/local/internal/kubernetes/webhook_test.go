package kubernetes

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"
)

// testWebhook registers a webhook on loopback that refuses every ConfigMap, and checks that its words reach the user.
func testWebhook(t *testing.T, client clientset.Interface) {
	const refusal = "the hold is full"
	ctx := t.Context()
	webhook := httptest.NewTLSServer(refuse(refusal))
	defer webhook.Close()
	url := webhook.URL
	none, fail := registrationv1.SideEffectClassNone, registrationv1.Fail
	configuration := &registrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "refuse"},
		Webhooks: []registrationv1.ValidatingWebhook{{
			Name: "refuse.orlop.test", SideEffects: &none, FailurePolicy: &fail, AdmissionReviewVersions: []string{"v1"},
			ClientConfig: registrationv1.WebhookClientConfig{
				URL:      &url,
				CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: webhook.Certificate().Raw}),
			},
			Rules: []registrationv1.RuleWithOperations{{
				Operations: []registrationv1.OperationType{registrationv1.Create},
				Rule:       registrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}},
		}},
	}
	webhooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err := webhooks.Create(ctx, configuration, metav1.CreateOptions{})
	check(t, err)
	eventually(t, "the webhook refuses", func(ctx context.Context) (bool, error) {
		dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
		_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "any"}}, dryRun)
		if apierrors.IsForbidden(err) {
			if want := `admission webhook "refuse.orlop.test" denied the request: ` + refusal; err.Error() != want {
				t.Errorf("got %q, want %q", err, want)
			}
			return true, nil
		}
		return false, err
	})
	check(t, webhooks.Delete(ctx, configuration.Name, metav1.DeleteOptions{}))
}

func refuse(reason string) http.HandlerFunc {
	return func(answer http.ResponseWriter, request *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(request.Body).Decode(&review); err != nil {
			http.Error(answer, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{
			UID:    review.Request.UID,
			Result: &metav1.Status{Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: reason},
		}
		_ = json.NewEncoder(answer).Encode(review) // fails only if the asker has gone
	}
}
