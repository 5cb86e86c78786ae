package machine

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	secretv1 "orlop.dev/gen/orlop/secret/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/auth"
	"orlop.dev/kit/fault"
)

const (
	// The types of Secrets that set up guests, and their keys (guide,
	// "Initialization scripts").
	cloudInitType   = "provisioning." + apiGroup + "/cloud-init"
	sysprepType     = "provisioning." + apiGroup + "/sysprep"
	unattendKey     = "unattend.xml"
	autounattendKey = "autounattend.xml"

	reasonProvisioning = "ProvisioningNotReady"

	// secretAgain is how often a Secret is looked for that a VM can't do without,
	// should nobody say that it has come.
	secretAgain = time.Minute
)

// userDataKeys are tried in this order.
var userDataKeys = []string{"userData", "userdata"}

// Secrets reads what users keep in Secrets. Class NotFound where one isn't there.
type Secrets interface {
	Secret(ctx context.Context, namespace, name string) (*secretv1.Secret, error)
}

// Provisioning sets a guest up at its first boot; its zero value does nothing. It
// holds passwords: it is in no text, no log and no record.
type Provisioning struct {
	// UserData is handed to cloud-init as it is; nil for none.
	UserData []byte
	// Unattend and Autounattend are the answer files of Windows; nil for none.
	Unattend, Autounattend []byte
}

// String keeps secrets out of texts.
func (Provisioning) String() string { return "(hidden)" }

// GoString keeps secrets out of texts.
func (Provisioning) GoString() string { return "(hidden)" }

// LogValue keeps secrets out of logs.
func (Provisioning) LogValue() slog.Value { return slog.StringValue("(hidden)") }

// secretOf is the Secret that sets a guest up, and the part of
// spec.provisioning that names it; nil where none does.
func secretOf(spec *vmv1.VirtualMachineSpec) (ref *vmv1.SecretRef, field string) {
	switch provisioning := spec.GetProvisioning(); provisioning.GetType() {
	case vmv1.ProvisioningType_UserDataRef:
		return provisioning.GetUserDataRef(), "userDataRef"
	case vmv1.ProvisioningType_SysprepRef:
		return provisioning.GetSysprepRef(), "sysprepRef"
	}
	return nil, ""
}

// SecretOf names the Secret that a VM is set up from; empty where none is.
func SecretOf(vm *vmv1.VirtualMachine) string {
	ref, _ := secretOf(vm.GetSpec())
	return ref.GetName()
}

// observeProvisioning finds what the guest is set up from.
func (r *Reconciler) observeProvisioning(ctx context.Context, vm *vmv1.VirtualMachine, o *observation) {
	ref, field := secretOf(vm.GetSpec())
	switch {
	case ref == nil && vm.GetSpec().GetProvisioning().GetType() == vmv1.ProvisioningType_UserData:
		o.provisioning.UserData = []byte(vm.GetSpec().GetProvisioning().GetUserData())
		return
	case ref == nil, deleted(vm):
		return
	case r.Secrets == nil:
		o.provisioningProblem = &problem{reasonProvisioning, "spec.provisioning." + field + " " + withoutSecrets}
		return
	}
	secret, err := r.Secrets.Secret(ctx, vm.GetMetadata().GetNamespace(), ref.GetName())
	switch {
	case fault.Is(err, fault.NotFound):
		o.provisioningProblem = &problem{reasonProvisioning, fmt.Sprintf("Secret %s does not exist.", ref.GetName())}
	case err != nil:
		o.provisioningProblem = &problem{reasonProvisioning, fmt.Sprintf("Secret %s can't be read now; it is tried again.", ref.GetName())}
	case field == "userDataRef":
		o.provisioning, o.provisioningProblem = userDataOf(ref.GetName(), secret)
	default:
		o.provisioning, o.provisioningProblem = answersOf(ref.GetName(), secret)
	}
	if o.provisioningProblem != nil {
		o.again = secretAgain
		return
	}
	o.provisioned = digest(vm.GetMetadata().GetUid(), o.provisioning)
}

func userDataOf(name string, secret *secretv1.Secret) (Provisioning, *problem) {
	if p := typeProblem(name, secret, cloudInitType); p != nil {
		return Provisioning{}, p
	}
	for _, key := range userDataKeys {
		if content, has := secret.GetData()[key]; has {
			// Empty is not none: the guest still gets its name and network.
			return Provisioning{UserData: append([]byte{}, content...)}, nil
		}
	}
	return Provisioning{}, &problem{reasonProvisioning,
		fmt.Sprintf("Secret %s has no key %s.", name, strings.Join(userDataKeys, " or "))}
}

func answersOf(name string, secret *secretv1.Secret) (Provisioning, *problem) {
	if p := typeProblem(name, secret, sysprepType); p != nil {
		return Provisioning{}, p
	}
	answers := Provisioning{Unattend: secret.GetData()[unattendKey], Autounattend: secret.GetData()[autounattendKey]}
	if len(answers.Unattend) == 0 && len(answers.Autounattend) == 0 {
		return Provisioning{}, &problem{reasonProvisioning,
			fmt.Sprintf("Secret %s has nothing under %s or %s.", name, unattendKey, autounattendKey)}
	}
	return answers, nil
}

func typeProblem(name string, secret *secretv1.Secret, want string) *problem {
	if secret.GetType() == want {
		return nil
	}
	return &problem{reasonProvisioning, fmt.Sprintf(
		"Secret %s is of type %s and must be of type %s: a Secret's type can't be changed, make it anew.", name, secret.GetType(), want)}
}

// digest tells whether the content changed, and nothing else: it is keyed, so
// that equal Secrets of two VMs can't be seen to be equal.
func digest(key string, p Provisioning) string {
	sum := hmac.New(sha256.New, []byte(key))
	for _, part := range [][]byte{p.UserData, p.Unattend, p.Autounattend} {
		fmt.Fprintf(sum, "%d:", len(part))
		sum.Write(part)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// secretChange is the difference between the content that an instance was set up
// from and the Secret's present one. It shows neither.
func secretChange(vm *vmv1.VirtualMachine, o *observation) []change {
	_, field := secretOf(vm.GetSpec())
	if field == "" || o.provisioned == "" || o.record.Provisioned == "" || o.record.Provisioned == o.provisioned {
		return nil
	}
	path := "provisioning." + field
	for _, c := range o.changes {
		if strings.HasPrefix(c.path, "provisioning") {
			return nil // said already: it is another Secret
		}
	}
	return []change{{operation: "replace", path: path}}
}

const withoutSecrets = "needs a Kubernetes API, which has the Secret; there is none here: use type UserData"

// admitProvisioning refuses a Secret that the VM's author may not read. One that
// was there before stays: who changes the rest of a VM need not read it.
func (r *Reconciler) admitProvisioning(ctx context.Context, old, vm *vmv1.VirtualMachine) error {
	ref, field := secretOf(vm.GetSpec())
	if ref == nil || old != nil && proto.Equal(old.GetSpec().GetProvisioning(), vm.GetSpec().GetProvisioning()) {
		return nil
	}
	if r.Secrets == nil {
		return fault.Refuse("spec.provisioning."+field, forbidden, withoutSecrets)
	}
	return auth.RequireOfCaller(ctx, auth.Attributes{
		Verb: "get", Resource: "secrets", Namespace: vm.GetMetadata().GetNamespace(), Name: ref.GetName(),
	})
}
