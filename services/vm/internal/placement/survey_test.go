package placement

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/node"
	"orlop.dev/services/vm/internal/power"
)

// land is VMs, classes and records that come, go and change by chance.
type land struct {
	t        *testing.T
	chance   *rand.Rand
	machines map[string]*vmv1.VirtualMachine // by UID
	classes  map[string]*vmv1.VirtualMachineClass
	power    *power.Store
	version  int
}

func (l *land) survey() *Survey {
	return &Survey{
		Nodes: func(context.Context) ([]node.Node, error) { return nil, nil }, Power: l.power,
		Machines: func(visit func(*vmv1.VirtualMachine)) error {
			for _, uid := range slices.Sorted(maps.Keys(l.machines)) {
				visit(l.machines[uid])
			}
			return nil
		},
		Class: func(name string) (*vmv1.VirtualMachineClass, bool) {
			class, found := l.classes[name]
			return class, found
		},
	}
}

func (l *land) pick(prefix string, of int) string { return fmt.Sprint(prefix, l.chance.IntN(of)) }

// changes one thing.
func (l *land) changes() {
	l.t.Helper()
	l.version++
	uid, class := l.pick("uid-", 12), l.pick("class-", 3)
	switch l.chance.IntN(6) {
	case 0:
		delete(l.machines, uid)
	case 1:
		delete(l.classes, class)
	case 2:
		l.classes[class] = &vmv1.VirtualMachineClass{
			Metadata: &metav1.ObjectMeta{Name: class, Uid: class, ResourceVersion: fmt.Sprint(l.version)},
			Spec:     &vmv1.VirtualMachineClassSpec{Tolerations: []*vmv1.Toleration{{Key: fmt.Sprint("key-", l.version)}}},
		}
	case 3:
		l.machines[uid] = &vmv1.VirtualMachine{
			Metadata: &metav1.ObjectMeta{Namespace: "default", Name: uid, Uid: uid, Labels: map[string]string{"version": fmt.Sprint(l.version)}},
			Spec:     &vmv1.VirtualMachineSpec{VirtualMachineClassName: class},
		}
	case 4:
		if vm := l.machines[uid]; vm != nil { // a status that changed
			l.machines[uid] = proto.CloneOf(vm)
		}
	default:
		l.records(uid)
	}
}

// records places a VM, moves it, or takes it off its node.
func (l *land) records(uid string) {
	l.t.Helper()
	record, err := l.power.Get(l.t.Context(), uid)
	if err != nil {
		l.t.Fatal(err)
	}
	record.UID, record.Node, record.MilliCPU = uid, l.pick("node-", 3), int64(l.version)
	record.Migration = nil
	switch l.chance.IntN(3) {
	case 0:
		record.Node = ""
	case 1:
		record.Migration = &power.Migration{Target: l.pick("node-", 3)}
	}
	if err := l.power.Put(l.t.Context(), uid, record); err != nil {
		l.t.Fatal(err)
	}
}

// sees is what a survey finds.
func (l *land) sees(s *Survey) []string {
	l.t.Helper()
	world, err := s.World(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	var seen []string
	for _, g := range world.Guests {
		seen = append(seen, fmt.Sprint(g.pod.UID, g.pod.Labels, g.Node, g.Demand, g.class, g.pod.Spec.Tolerations))
	}
	return seen
}

func TestASurveyThatRemembersFindsWhatANewOneFinds(t *testing.T) {
	client := etcdtest.Start(t)
	for _, followed := range []bool{false, true} {
		l := &land{
			t: t, chance: rand.New(rand.NewPCG(1, 2)), machines: map[string]*vmv1.VirtualMachine{},
			classes: map[string]*vmv1.VirtualMachineClass{}, power: power.NewStore(client, fmt.Sprint("/", followed)),
		}
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		if followed {
			go func() { ended <- l.power.Follow(ctx) }()
		} else {
			ended <- nil
		}
		remembers := l.survey()
		for range 600 {
			l.changes()
			if l.chance.IntN(3) > 0 {
				continue
			}
			if got, want := l.sees(remembers), l.sees(l.survey()); !slices.Equal(got, want) {
				t.Fatalf("after %d changes it finds\n%v, want\n%v", l.version, got, want)
			}
		}
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
