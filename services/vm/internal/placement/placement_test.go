package placement

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/vm/internal/node"
)

const gib = 1 << 30

var small = node.Demand{MilliCPU: 1000, MemoryBytes: gib}

// stage has two nodes in two zones, and what a test adds.
type stage struct {
	t          *testing.T
	nodes      []node.Node
	guests     []*Guest
	namespaces map[string]map[string]string
}

func newStage(t *testing.T, names ...string) *stage {
	s := &stage{t: t, nodes: node.Simulate(names, node.Demand{
		MilliCPU: int64(len(names)) * 4000, MemoryBytes: int64(len(names)) * 4 * gib,
	})}
	for i := range s.nodes {
		s.nodes[i].State.Labels = map[string]string{"zone": fmt.Sprint("zone-", i)}
	}
	return s
}

// vm reads a VM with labels ("default/web app=web") and a spec in YAML.
func (s *stage) vm(name, spec string) *Guest {
	s.t.Helper()
	vm := machineOf(s.t, name, spec)
	g, err := Read(vm, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	g.Demand = small
	return g
}

func machineOf(t *testing.T, name, spec string) *vmv1.VirtualMachine {
	t.Helper()
	parts := strings.Fields(name)
	namespace, own, _ := strings.Cut(parts[0], "/")
	meta := &metav1.ObjectMeta{Namespace: namespace, Name: own, Uid: parts[0], Labels: map[string]string{}}
	for _, label := range parts[1:] {
		key, value, _ := strings.Cut(label, "=")
		meta.Labels[key] = value
	}
	text, err := yaml.YAMLToJSON([]byte(spec))
	if err != nil {
		t.Fatal(err)
	}
	read := new(vmv1.VirtualMachineSpec)
	if spec != "" {
		if err := protojson.Unmarshal(text, read); err != nil {
			t.Fatal(err)
		}
	}
	return &vmv1.VirtualMachine{Metadata: meta, Spec: read}
}

func (s *stage) runs(on, name, spec string) {
	s.t.Helper()
	g := s.vm(name, spec)
	g.Node = on
	s.guests = append(s.guests, g)
}

// want places a VM: on a node, or nowhere, for a reason.
func (s *stage) want(g *Guest, want string) {
	s.t.Helper()
	got, err := New(s.nodes, s.guests, s.namespaces).Place(g, nil)
	if err == nil && got == want || err != nil && strings.Contains(err.Error(), want) && fault.Is(err, fault.NotReady) {
		return
	}
	s.t.Errorf("%s: got %q (%v), want %s", g.Name(), got, err, want)
}

func TestNodesAreChosenByTheirLabelsTaintsAndRoom(t *testing.T) {
	ssd := "nodeSelector: {disktype: ssd}"
	for _, test := range []struct {
		reason  string
		prepare func(*stage)
		spec    string
		demand  node.Demand
		want    string
	}{
		{"the emptier node", func(s *stage) { s.runs("a", "x/1", "") }, "", small, "b"},
		{"the first of equals", func(*stage) {}, "", small, "a"},
		{"a label that an administrator put there", func(s *stage) {
			s.nodes[1].State.Labels["disktype"] = "ssd"
			s.runs("b", "x/1", "")
		}, ssd, small, "b"},
		{"no such label", func(*stage) {}, ssd, small, "a does not match nodeSelector or nodeAffinity; b does not"},
		{"required node affinity", func(*stage) {},
			"affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: NotIn, values: [zone-0]}]}]}}}",
			small, "b"},
		{"preferred node affinity goes before room", func(s *stage) { s.runs("b", "x/1", ""); s.runs("b", "x/2", "") },
			"affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: zone, operator: In, values: [zone-1]}]}}]}}",
			small, "b"},
		{"cordoned", func(s *stage) { s.nodes[0].State.Unschedulable = true }, "", small, "b"},
		{"tainted", func(s *stage) { s.taint(0, corev1.TaintEffectNoSchedule) }, "", small, "b"},
		{"tolerated, and says so", func(s *stage) { s.taint(0, corev1.TaintEffectNoSchedule); s.nodes[1].State.Unschedulable = true },
			"tolerations: [{key: gpu, operator: Exists}]", small, "a"},
		{"avoided", func(s *stage) { s.taint(0, corev1.TaintEffectPreferNoSchedule); s.runs("b", "x/1", "") }, "", small, "b"},
		{"each node says why not", func(s *stage) { s.nodes[0].State.Unschedulable = true; s.taint(1, corev1.TaintEffectNoExecute) },
			"", small, "no node fits: a is cordoned; b has the taint gpu=yes:NoExecute, which is not tolerated"},
		{"too large", func(*stage) {}, "", node.Demand{MemoryBytes: 5 * gib}, "a has 4Gi of memory left, 5Gi are needed"},
		{"no processors left", func(s *stage) { s.runs("a", "x/1", ""); s.runs("b", "x/2", "") }, "", node.Demand{MilliCPU: 3500},
			"a has 3000m of 4000m CPU left, 3500m are needed"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			s := newStage(t, "a", "b")
			test.prepare(s)
			g := s.vm("default/web", test.spec)
			g.Demand = test.demand
			s.want(g, test.want)
		})
	}
}

func (s *stage) taint(at int, effect corev1.TaintEffect) {
	s.nodes[at].State.Taints = []corev1.Taint{{Key: "gpu", Value: "yes", Effect: effect}}
}

func TestVMsAreKeptTogetherAndApart(t *testing.T) {
	const (
		near     = "affinity: {virtualMachineAndPodAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {app: db}}, topologyKey: zone}]}}"
		wish     = "affinity: {virtualMachineAndPodAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {labelSelector: {matchLabels: {app: db}}, topologyKey: zone}}]}}"
		far      = "affinity: {virtualMachineAndPodAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {app: db}}, topologyKey: zone}]}}"
		farWish  = "affinity: {virtualMachineAndPodAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 5, virtualMachineAndPodAffinityTerm: {labelSelector: {matchLabels: {app: db}}, topologyKey: zone}}]}}"
		anywhere = "affinity: {virtualMachineAndPodAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {app: db}}, namespaceSelector: {matchLabels: {team: red}}, topologyKey: zone}]}}"
		release  = "affinity: {virtualMachineAndPodAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {app: db}}, topologyKey: zone, matchLabelKeys: [version]}]}}"
		lost     = "affinity: {virtualMachineAndPodAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {app: db}}, topologyKey: rack}]}}"
	)
	for _, test := range []struct {
		reason  string
		prepare func(*stage)
		vm      [2]string
		want    string
	}{
		{"near its database, however full", func(s *stage) { s.runs("b", "default/db app=db", "") }, [2]string{"default/web", near}, "b"},
		{"of another namespace it is not its own", func(s *stage) { s.runs("b", "other/db app=db", "") }, [2]string{"default/web", near},
			"a is not near a VM with app=db (zone)"},
		{"unless the namespace is selected", func(s *stage) {
			s.namespaces = map[string]map[string]string{"other": {"team": "red"}}
			s.runs("b", "other/db app=db", "")
		}, [2]string{"default/web", anywhere}, "b"},
		{"the first of its kind may run anywhere", func(*stage) {}, [2]string{"default/db app=db", near}, "a"},
		{"but the second goes where the first is", func(s *stage) { s.runs("b", "default/db app=db", near) }, [2]string{"default/db2 app=db", near}, "b"},
		{"no node has the label", func(*stage) {}, [2]string{"default/db app=db", lost}, "a lacks the label rack"},
		{"the guide's required term with a weight is a wish", func(s *stage) { s.runs("b", "default/db app=db", "") }, [2]string{"default/web", wish}, "b"},
		{"which may stay one", func(*stage) {}, [2]string{"default/web", wish}, "a"},
		{"apart from its like", func(s *stage) { s.runs("a", "default/db app=db", "") }, [2]string{"default/db2 app=db", far}, "b"},
		{"what runs keeps others away as well", func(s *stage) { s.runs("a", "default/db app=db", far); s.runs("b", "default/x", "") },
			[2]string{"default/db2 app=db", ""}, "b"},
		{"nowhere to go", func(s *stage) { s.runs("a", "default/db app=db", far); s.runs("b", "default/db2 app=db", "") },
			[2]string{"default/db3 app=db", far},
			"a is near VM default/db (zone), from which virtualMachineAndPodAntiAffinity keeps this one; b is near VM default/db2"},
		{"rather apart", func(s *stage) {
			s.runs("a", "default/db app=db", "")
			s.runs("b", "default/x", "")
			s.runs("b", "default/y", "")
		},
			[2]string{"default/db2 app=db", farWish}, "b"},
		{"of another version is another", func(s *stage) { s.runs("a", "default/db app=db version=1", "") },
			[2]string{"default/db2 app=db version=2", release}, "b"}, // for its room
		{"of the same version it is the same", func(s *stage) {
			s.runs("a", "default/x", "")
			s.runs("b", "default/db app=db version=2", "")
		}, [2]string{"default/db2 app=db version=2", release}, "a"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			s := newStage(t, "a", "b")
			test.prepare(s)
			s.want(s.vm(test.vm[0], test.vm[1]), test.want)
		})
	}
}

func TestVMsAreSpreadOverDomains(t *testing.T) {
	const hard = "topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]"
	soft := strings.Replace(hard, "DoNotSchedule", "ScheduleAnyway", 1)
	s := newStage(t, "a", "b", "c")
	s.nodes[2].State.Labels["zone"] = "zone-1" // b and c are one zone
	for i, want := range []string{"a", "b", "c", "a", "b"} {
		name := fmt.Sprintf("default/web-%d app=web", i)
		s.want(s.vm(name, hard), want)
		s.runs(want, name, hard)
	}
	// Now zone-0 has two, and zone-1 three.
	s.want(s.vm("default/web-5 app=web", hard), "a")
	s.want(s.vm("default/web-5 app=web", hard+"\nnodeSelector: {zone: zone-1}"), "c") // only its own domain counts
	s.nodes[0].State.Unschedulable = true
	s.want(s.vm("default/web-5 app=web", hard),
		"b would have 4 such VMs in zone=zone-1 and 2 elsewhere: topologySpreadConstraints allow a difference of 1")
	s.want(s.vm("default/web-5 app=web", soft), "c")
	s.nodes[0].State.Unschedulable = false
	s.want(s.vm("default/web-5 app=web", soft), "a")
	delete(s.nodes[1].State.Labels, "zone")
	s.want(s.vm("default/web-5 app=web", hard+"\nnodeSelector: {kubernetes.io/hostname: b}"), "b lacks the label zone")
}

func TestRunningVMStaysUnlessItsNodeIsWrong(t *testing.T) {
	s := newStage(t, "a", "b")
	g := s.vm("default/web", "nodeSelector: {zone: zone-0}")
	for _, test := range []struct {
		change func()
		want   string
	}{
		{func() {}, ""},
		{func() { s.nodes[0].State.Unschedulable = true }, ""},
		{func() { s.taint(0, corev1.TaintEffectNoSchedule) }, ""},
		{func() { s.taint(0, corev1.TaintEffectNoExecute) }, "has the taint gpu=yes:NoExecute, which is not tolerated"},
		{func() { s.nodes[0].State.Labels["zone"] = "x" }, "does not match nodeSelector or nodeAffinity"},
	} {
		test.change()
		if got := Stay(g, s.nodes[0]); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestRulesThatKubernetesRefusesAreRefused(t *testing.T) {
	for _, test := range []struct{ spec, field string }{
		{"nodeSelector: {disktype: ssd}", ""},
		{"nodeSelector: {'a b': ssd}", "spec.nodeSelector"},
		{"affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Is}]}]}}}",
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"},
		{"affinity: {virtualMachineAndPodAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {}}]}}",
			"spec.affinity.virtualMachineAndPodAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey"},
		{"affinity: {virtualMachineAndPodAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{weight: 1, labelSelector: {}, topologyKey: x}]}}",
			"spec.affinity.virtualMachineAndPodAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].weight"},
		{"affinity: {virtualMachineAndPodAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: x}}]}}", ""},
		{"tolerations: [{operator: Exists}]", ""},
		{"tolerations: [{operator: Equal}]", "spec.tolerations[0].operator"},
		{"tolerations: [{key: a, effect: Never}]", "spec.tolerations[0].effect"},
		{"topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: Maybe}]", "spec.topologySpreadConstraints[0].whenUnsatisfiable"},
	} {
		err := Validate(machineOf(t, "default/web", test.spec).GetSpec())
		if test.field == "" && err == nil {
			continue
		}
		if f := fault.From(err); err == nil || len(f.Fields) == 0 || !strings.HasPrefix(f.Fields[0].Path, test.field) || test.field == "" {
			t.Errorf("%s: got %v, want a refusal of %q", test.spec, err, test.field)
		}
	}
}
