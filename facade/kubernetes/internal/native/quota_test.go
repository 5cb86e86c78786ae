package native_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"orlop.dev/facade/kubernetes/internal/native"
)

func quotaOf(hard, used string) *corev1.ResourceQuota {
	quota := new(corev1.ResourceQuota)
	if hard != "" {
		quota.Status.Hard = corev1.ResourceList{corev1.ResourceRequestsMemory: resource.MustParse(hard)}
		quota.Status.Used = corev1.ResourceList{corev1.ResourceRequestsMemory: resource.MustParse(used)}
	}
	return quota
}

func TestAQuotaIsRelaxedWhereItAllowsMore(t *testing.T) {
	before := quotaOf("2Gi", "1Gi")
	for what, test := range map[string]struct {
		now  *corev1.ResourceQuota
		want bool
	}{
		"the same":       {quotaOf("2Gi", "1Gi"), false},
		"more is used":   {quotaOf("2Gi", "2Gi"), false},
		"lowered":        {quotaOf("1Gi", "1Gi"), false},
		"less is used":   {quotaOf("2Gi", "512Mi"), true},
		"raised":         {quotaOf("3Gi", "1Gi"), true},
		"counts no more": {quotaOf("", ""), true},
	} {
		if native.Relaxed(before, test.now) != test.want {
			t.Errorf("%s: relaxed is not %t", what, test.want)
		}
	}
}
