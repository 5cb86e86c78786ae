package machine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	secretv1 "orlop.dev/gen/orlop/secret/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/vm/internal/machine"
)

// secrets are those of the VM's namespace, by name.
type secrets map[string]*secretv1.Secret

func (s secrets) Secret(_ context.Context, namespace, name string) (*secretv1.Secret, error) {
	if found := s[name]; found != nil && namespace == "default" {
		return found, nil
	}
	return nil, fault.New(fault.NotFound, "SecretNotFound", "Secret %s/%s is not there", namespace, name)
}

func cloudInit(key, content string) *secretv1.Secret {
	return &secretv1.Secret{
		Type: "provisioning.virtualization.deckhouse.io/cloud-init", Data: map[string][]byte{key: []byte(content)},
	}
}

func userDataFrom(secret string) *vmv1.Provisioning {
	return &vmv1.Provisioning{
		Type: vmv1.ProvisioningType_UserDataRef, UserDataRef: &vmv1.SecretRef{Kind: vmv1.SecretKind_Secret, Name: secret},
	}
}

func TestASecretThatChangesAwaitsARestart(t *testing.T) {
	w := newWorld(t, etcdtest.Start(t))
	w.vm.Spec.Provisioning = userDataFrom("script")
	w.secrets["script"] = cloudInit("userData", "hunter2")
	w.run()
	if got := string(w.engine.Last().Provisioning.UserData); got != "hunter2" {
		t.Fatalf("the guest was set up from %q", got)
	}
	w.wantCondition("AwaitingRestartToApplyConfiguration", "NoNeedRestart", "")

	w.secrets["script"] = cloudInit("userData", "hunter3")
	w.settle()
	w.wantCondition("AwaitingRestartToApplyConfiguration", "RestartAwaitingChangesExist", "")
	changes := w.vm.GetStatus().GetRestartAwaitingChanges()
	if len(changes) != 1 || changes[0].GetFields()["path"].GetStringValue() != "provisioning.userDataRef" || len(changes[0].GetFields()) != 2 {
		t.Errorf("changes %v", changes)
	}

	// One that is gone, or can't be read, is not known to differ, and ends nothing.
	delete(w.secrets, "script")
	w.settle()
	w.wantPhase(vmv1.VirtualMachinePhase_Running)
	w.wantCondition("ProvisioningReady", "ProvisioningNotReady", "Secret script does not exist.")
	w.wantCondition("AwaitingRestartToApplyConfiguration", "NoNeedRestart", "")

	w.secrets["script"] = cloudInit("userData", "hunter3")
	w.change(func(s *vmv1.VirtualMachineSpec) {
		s.Disruptions = &vmv1.Disruptions{RestartApprovalMode: vmv1.RestartApprovalMode_Automatic}
	})
	w.settle()
	w.run()
	if got := string(w.engine.Last().Provisioning.UserData); got != "hunter3" {
		t.Errorf("the guest was set up from %q", got)
	}
	w.wantCondition("AwaitingRestartToApplyConfiguration", "NoNeedRestart", "")
	w.wantNowhere("hunter")
}

// wantNowhere says that no status and no record has a text.
func (w *world) wantNowhere(text string) {
	w.t.Helper()
	status, err := json.Marshal(w.vm.GetStatus())
	if err != nil {
		w.t.Fatal(err)
	}
	if told := string(status) + w.snapshot(); strings.Contains(told, text) {
		w.t.Errorf("%q is in %s", text, told)
	}
}

func TestProvisioningIsInNoText(t *testing.T) {
	instance := machine.Instance{Provisioning: machine.Provisioning{UserData: []byte("hunter2"), Unattend: []byte("hunter2")}}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, instance); strings.Contains(text, "hunter2") || strings.Contains(text, "104 117") {
			t.Errorf("%s gives %s", format, text)
		}
	}
}
