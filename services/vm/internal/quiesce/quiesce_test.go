package quiesce_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/quiesce"
)

const uid = "6f9619ff-8b86-4011-b42d-00cf4fc964ff"

// guest is one guest with two file systems. It panics, as a process that is
// killed, in the call that dies names.
type guest struct {
	agent    bool
	hangs    bool // an agent that hears and does not answer
	frozen   bool
	path     string
	switched bool // while it was frozen
	dies     string
	kept     map[string]bool // memory by its token, and whether it was frozen then
}

type killed struct{}

func (g *guest) die(call string) {
	if g.dies == call {
		g.dies = ""
		panic(killed{})
	}
}

func (g *guest) Switched(_ context.Context, _ string, overlays []quiesce.Overlay) (running, switched bool, err error) {
	return true, g.path == overlays[0].Path, nil
}

func (g *guest) Switch(_ context.Context, _ string, overlays []quiesce.Overlay) error {
	g.die("before switch")
	g.path, g.switched = overlays[0].Path, g.frozen
	g.die("after switch")
	return nil
}

func (g *guest) Keep(ctx context.Context, uid, token string, overlays []quiesce.Overlay, atRest bool) error {
	if err := g.Switch(ctx, uid, overlays); err != nil {
		return err
	}
	if atRest != g.frozen {
		return errors.New("it is not as frozen as is said")
	}
	g.kept[token] = atRest
	return nil
}

func (g *guest) Drop(_ context.Context, token string) error {
	delete(g.kept, token)
	return nil
}

func (g *guest) Freeze(context.Context, string) (int, error) {
	if !g.agent {
		return 0, fault.New(fault.NotReady, "AgentNotReady", "no guest agent answers")
	}
	g.frozen = true
	g.die("freeze")
	return 2, g.answer()
}

func (g *guest) Thaw(context.Context, string) (int, error) {
	if err := g.answer(); err != nil || !g.frozen {
		return 0, err
	}
	g.frozen = false
	return 2, nil
}

func (g *guest) answer() error {
	if g.hangs {
		return fault.New(fault.NotReady, "AgentNotReady", "the guest agent does not answer")
	}
	return nil
}

func TestFrozenGuestIsThawedWhateverIsKilled(t *testing.T) {
	client := etcdtest.Start(t)
	for _, test := range []struct {
		dies   string
		keeper bool // thaws before the request is repeated
		rested bool
	}{
		{"", false, true},
		{"freeze", false, true}, {"freeze", true, true},
		{"before switch", false, true}, {"before switch", true, true},
		{"after switch", false, true}, {"after switch", true, true},
	} {
		t.Run(test.dies, func(t *testing.T) {
			g := &guest{agent: true, path: "old", dies: test.dies}
			prefix := "/" + t.Name()
			options := quiesce.Options{
				Etcd: client, Prefix: prefix, Engine: g, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
				Machine: func(resource.Key) (*vmv1.VirtualMachine, bool) {
					return &vmv1.VirtualMachine{Metadata: &metav1.ObjectMeta{Uid: uid}}, true
				},
				Exists: func(string) bool { return true },
				Ready:  func(context.Context) error { return nil },
				Device: func(disk string) string { return disk },
			}
			request := &vmv1.SwitchGuestDisksRequest{
				Uid: uid, Token: "token", Rest: vmv1.GuestRest_Required,
				Files: []*vmv1.GuestDiskFile{{VirtualDiskName: "root", Path: "new"}},
			}
			if test.dies != "" {
				dieIn(t, func() { _, _ = quiesce.New(options).SwitchGuestDisks(t.Context(), request) })
			}
			next := quiesce.New(options) // of another process
			if test.keeper {
				if err := next.Pass(t.Context()); err != nil || g.frozen {
					t.Fatalf("the guest is %+v, %v", g, err)
				}
			}
			for range 2 { // a repeated request is told the same
				response, err := next.SwitchGuestDisks(t.Context(), request)
				if err != nil || !response.GetRunning() || response.GetAtRest() != test.rested {
					t.Fatalf("got %v, %v", response, err)
				}
			}
			if g.frozen || g.path != "new" || !g.switched {
				t.Errorf("the guest is %+v", g)
			}
		})
	}
}

func dieIn(t *testing.T, call func()) {
	t.Helper()
	defer func() {
		if _, ok := recover().(killed); !ok {
			t.Fatal("it did not die")
		}
	}()
	call()
}

func TestGuestWithoutAgent(t *testing.T) {
	client := etcdtest.Start(t)
	g := &guest{path: "old"}
	s, request := serviceOf(client, g), switchTo("token", "new")
	_, err := s.SwitchGuestDisks(t.Context(), request)
	if fault.ReasonOf(err) != quiesce.ReasonInconsistent || g.path != "old" {
		t.Fatalf("got %v, and the guest writes to %s", err, g.path)
	}
	request.Rest = vmv1.GuestRest_IfPossible
	response, err := s.SwitchGuestDisks(t.Context(), request)
	if err != nil || response.GetAtRest() || g.path != "new" {
		t.Errorf("got %v, %v, and the guest writes to %s", response, err, g.path)
	}
}

func serviceOf(client *clientv3.Client, g *guest) *quiesce.Service {
	return quiesce.New(quiesce.Options{
		Etcd: client, Prefix: "/quiet", Engine: g, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		Machine: func(resource.Key) (*vmv1.VirtualMachine, bool) {
			return &vmv1.VirtualMachine{Metadata: &metav1.ObjectMeta{Uid: uid}}, true
		},
		Exists: func(string) bool { return true }, Ready: func(context.Context) error { return nil },
		Device: func(disk string) string { return disk },
	})
}

func switchTo(token, path string) *vmv1.SwitchGuestDisksRequest {
	return &vmv1.SwitchGuestDisksRequest{
		Uid: uid, Token: token, Rest: vmv1.GuestRest_Required,
		Files: []*vmv1.GuestDiskFile{{VirtualDiskName: "root", Path: path}},
	}
}

// Nobody who needs no rest waits for an agent that hangs, and what it may have
// frozen is thawed once it answers.
func TestAgentThatHangsHoldsUpOnlyWhoNeedsIt(t *testing.T) {
	g := &guest{path: "old", agent: true, hangs: true}
	s := serviceOf(etcdtest.Start(t), g)
	if _, err := s.SwitchGuestDisks(t.Context(), switchTo("needs", "rested")); !fault.Is(err, fault.NotReady) || g.path != "old" {
		t.Fatalf("got %v, and the guest writes to %s", err, g.path)
	}
	for _, path := range []string{"new", "newer"} {
		request := switchTo(path, path)
		request.Rest = vmv1.GuestRest_IfPossible
		for range 2 {
			if response, err := s.SwitchGuestDisks(t.Context(), request); err != nil || response.GetAtRest() || g.path != path {
				t.Fatalf("got %v, %v, and the guest writes to %s", response, err, g.path)
			}
		}
	}
	if err := s.Pass(t.Context()); err != nil || !g.frozen {
		t.Fatalf("the guest is %+v, %v", g, err)
	}
	g.hangs = false
	if err := s.Pass(t.Context()); err != nil || g.frozen {
		t.Errorf("the guest is %+v, %v", g, err)
	}
}

func TestMemoryIsKeptWithTheSwitch(t *testing.T) {
	g := &guest{agent: true, path: "old", kept: map[string]bool{}}
	s := serviceOf(etcdtest.Start(t), g)
	for _, test := range []struct {
		rest  vmv1.GuestRest_Value
		token string
	}{{vmv1.GuestRest_Required, "frozen"}, {vmv1.GuestRest_IfPossible, "running"}} {
		request := switchTo(test.token, test.token)
		request.Rest, request.Memory = test.rest, true
		for range 2 {
			response, err := s.SwitchGuestDisks(t.Context(), request)
			if err != nil || !response.GetMemory() || response.GetAtRest() != (test.token == "frozen") {
				t.Fatalf("%s: got %v, %v", test.token, response, err)
			}
		}
		if atRest, kept := g.kept[test.token]; !kept || atRest != (test.token == "frozen") || g.frozen {
			t.Errorf("%s: kept are %v, frozen: %t", test.token, g.kept, g.frozen)
		}
		if _, err := s.DropGuestMemory(t.Context(), &vmv1.DropGuestMemoryRequest{Token: test.token}); err != nil || len(g.kept) > 0 {
			t.Errorf("kept are %v, %v", g.kept, err)
		}
	}
}

// What is killed after the switch has no memory of that moment, and says so.
func TestMemoryThatWasNotKeptIsNotTold(t *testing.T) {
	g := &guest{agent: true, path: "old", dies: "after switch", kept: map[string]bool{}}
	client, request := etcdtest.Start(t), switchTo("token", "new")
	request.Memory = true
	dieIn(t, func() { _, _ = serviceOf(client, g).SwitchGuestDisks(t.Context(), request) })
	response, err := serviceOf(client, g).SwitchGuestDisks(t.Context(), request)
	if err != nil || response.GetMemory() || !response.GetRunning() || g.frozen {
		t.Errorf("got %v, %v, frozen: %t", response, err, g.frozen)
	}
}

func TestGuestThatWasMadeFrozenIsThawed(t *testing.T) {
	g := &guest{agent: true, frozen: true, hangs: true}
	client := etcdtest.Start(t)
	if err := serviceOf(client, g).Thaw(t.Context(), uid); err != nil || !g.frozen {
		t.Fatalf("frozen: %t, %v", g.frozen, err)
	}
	g.hangs = false
	if err := serviceOf(client, g).Pass(t.Context()); err != nil || g.frozen {
		t.Errorf("frozen: %t, %v", g.frozen, err)
	}
}
