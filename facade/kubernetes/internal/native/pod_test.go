package native_test

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"orlop.dev/facade/kubernetes/internal/native"
)

var machineKind = schema.GroupVersionKind{Group: "virtualization.deckhouse.io", Version: "v1alpha2", Kind: "VirtualMachine"}

// cluster is an API server with one VM, and what publishes its Pod.
type cluster struct {
	client.Client
	t    *testing.T
	pods native.Pods
	vm   *unstructured.Unstructured
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	vm := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"name": "web", "namespace": "default", "uid": "1", "labels": map[string]any{"app": "nginx"}},
	}}
	vm.SetGroupVersionKind(machineKind)
	kube := fake.NewClientBuilder().WithObjects(vm).WithStatusSubresource(&corev1.Pod{}).Build()
	return &cluster{Client: kube, t: t, vm: vm, pods: native.Pods{Kube: kube, Live: kube, Machine: machineKind}}
}

// shows stores what the VM's status is, and lets it be published.
func (c *cluster) shows(phase, pod string) {
	c.t.Helper()
	status := map[string]any{
		"phase": phase, "nodeName": "node-1", "ipAddress": "10.66.10.5",
		"resources": map[string]any{
			"cpu":    map[string]any{"cores": int64(2), "requestedCores": "500m"},
			"memory": map[string]any{"size": "1Gi", "runtimeOverhead": "100Mi"},
		},
	}
	if pod != "" {
		status["virtualMachinePods"] = []any{map[string]any{"name": pod, "active": true}}
	}
	c.vm.Object["status"] = status
	c.check(c.Update(c.t.Context(), c.vm))
	c.publish()
}

func (c *cluster) publish() {
	c.t.Helper()
	_, err := c.pods.Reconcile(c.t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(c.vm)})
	c.check(err)
}

func (c *cluster) check(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// pod is the only one there is; nil for none.
func (c *cluster) pod() *corev1.Pod {
	c.t.Helper()
	list := new(corev1.PodList)
	c.check(c.List(c.t.Context(), list))
	switch len(list.Items) {
	case 0:
		return nil
	case 1:
		return &list.Items[0]
	}
	c.t.Fatalf("there are %d Pods", len(list.Items))
	return nil
}

func ready(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func TestRunningVMHasAPodThatServicesFind(t *testing.T) {
	c := newCluster(t)
	c.shows("Running", "web-1")
	pod := c.pod()
	if pod == nil || pod.Name != "web-1" || pod.Labels["app"] != "nginx" || pod.Spec.NodeName != "node-1" ||
		pod.Status.PodIP != "10.66.10.5" || !ready(pod) || pod.Spec.Containers[0].Resources.Requests.Cpu().MilliValue() != 500 {
		t.Fatalf("the Pod is %v", pod)
	}

	c.vm.SetLabels(map[string]string{"app": "redis"})
	c.shows("Pause", "web-1")
	if pod = c.pod(); pod.Labels["app"] != "redis" || ready(pod) {
		t.Errorf("of a VM that stands still and has other labels the Pod is %v", pod)
	}
	c.shows("Migrating", "web-1")
	if pod = c.pod(); !ready(pod) {
		t.Error("a VM that moves is not ready")
	}
}

func TestPodGoesWithItsInstance(t *testing.T) {
	c := newCluster(t)
	c.shows("Running", "web-1")
	c.shows("Running", "web-2")
	if pod := c.pod(); pod.Name != "web-2" {
		t.Errorf("after a restart the Pod is %s", pod.Name)
	}
	c.check(c.Delete(t.Context(), c.pod()))
	c.publish()
	if c.pod() == nil {
		t.Error("a Pod that somebody deleted did not come back")
	}
	c.shows("Stopped", "")
	if pod := c.pod(); pod != nil {
		t.Errorf("a VM that stopped has the Pod %s", pod.Name)
	}
	c.shows("Running", "web-3")
	c.check(c.Delete(t.Context(), c.vm))
	c.publish()
	if pod := c.pod(); pod != nil {
		t.Errorf("a VM that is gone has the Pod %s", pod.Name)
	}
}

// reserve makes the Pod of an instance that is about to run.
func (c *cluster) reserve(name string, at time.Time) {
	c.t.Helper()
	pod, err := native.NewPod(c.vm, native.Shape{Name: name, Node: "node-1", RequestedCPU: "500m", CPU: "2", Memory: "1Gi", Overhead: "100Mi"})
	c.check(err)
	native.Reserve(pod)
	pod.CreationTimestamp = metav1.NewTime(at)
	c.check(c.Create(c.t.Context(), pod))
}

func TestAPodThatWasReservedStaysUntilItsVMRunsOrAMinute(t *testing.T) {
	c := newCluster(t)
	c.reserve("web-1", time.Now())
	c.shows("Starting", "")
	if pod := c.pod(); pod == nil || pod.Spec.Containers[0].Resources.Limits.Cpu().String() != "2" ||
		pod.Spec.Containers[0].Resources.Requests.Memory().String() != "1124Mi" {
		t.Fatalf("the Pod is %v", pod)
	}
	c.shows("Running", "web-1")
	if pod := c.pod(); pod == nil || pod.Status.PodIP == "" || len(pod.Annotations) > 0 {
		t.Errorf("the Pod of a VM that runs is %v", pod)
	}
	c.shows("Running", "web-2")
	if pod := c.pod(); pod == nil || pod.Name != "web-2" {
		t.Errorf("after a move the Pod is %v", pod)
	}
	c.reserve("web-1", time.Now().Add(-time.Hour))
	c.shows("Stopped", "")
	if pod := c.pod(); pod != nil {
		t.Errorf("a reservation of long ago is there: %v", pod)
	}
}

// The custom resource names the instance before while the next one is started.
func TestAStatusOfYesterdayTakesNoPlaceFromTheInstanceThatStarts(t *testing.T) {
	c := newCluster(t)
	c.shows("Running", "web-1")
	c.check(c.Delete(t.Context(), c.pod()))
	c.reserve("web-2", time.Now())
	c.shows("Running", "web-1")
	if pod := c.pod(); pod == nil || pod.Name != "web-2" {
		t.Errorf("the Pod is %v", pod)
	}
}

// limit has a quota that allows so many Pods, and counts those that there are.
func (c *cluster) limit(hard, used string) {
	c.t.Helper()
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "small"}}
	quota.Status.Hard = corev1.ResourceList{corev1.ResourcePods: resource.MustParse(hard)}
	quota.Status.Used = corev1.ResourceList{corev1.ResourcePods: resource.MustParse(used)}
	c.check(c.Create(c.t.Context(), quota))
	c.pods.Kube = interceptor.NewClient(c.Client.(client.WithWatch), interceptor.Funcs{
		Create: func(ctx context.Context, kube client.WithWatch, object client.Object, options ...client.CreateOption) error {
			if c.pod() != nil {
				return apierrors.NewForbidden(corev1.Resource("pods"), object.GetName(), errors.New("no"))
			}
			return kube.Create(ctx, object, options...)
		},
	})
}

// A quota has room for one of the two Pods of a VM that moves.
func TestAQuotaThatIsFullLetsAVMMove(t *testing.T) {
	c := newCluster(t)
	c.shows("Running", "web-1")
	c.limit("1", "1")
	c.shows("Running", "web-2")
	if pod := c.pod(); pod == nil || pod.Name != "web-2" {
		t.Errorf("the Pod is %v", pod)
	}
}

// Better a Pod that names another node than none.
func TestWhereNoOtherPodIsAllowedTheOldOneStays(t *testing.T) {
	for why, quota := range map[string][2]string{"the quota was lowered": {"0", "1"}, "it is no quota": {"5", "1"}} {
		c := newCluster(t)
		c.shows("Running", "web-1")
		c.limit(quota[0], quota[1])
		c.vm.Object["status"].(map[string]any)["virtualMachinePods"] = []any{map[string]any{"name": "web-2"}}
		c.check(c.Update(t.Context(), c.vm))
		_, err := c.pods.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(c.vm)})
		if pod := c.pod(); pod == nil || pod.Name != "web-1" || !apierrors.IsForbidden(err) {
			t.Errorf("%s: the Pod is %v, %v", why, pod, err)
		}
	}
}
