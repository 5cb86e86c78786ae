package restore

import (
	"bytes"
	"context"
	"fmt"
	"maps"

	networkv1 "orlop.dev/gen/orlop/network/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/recipe"
)

// conflicts says, for people, all that stands in the way of a plan (guide,
// "Restore virtual machines from snapshots").
func (r *Reconciler) conflicts(ctx context.Context, p *plan) ([]string, error) {
	problems := p.renaming.unused()
	key := resource.KeyOf(p.machine)
	exists := func(kind, name string) {
		problems = append(problems, describe(kind, name)+" exists: delete it, or give the restored one another name by nameReplacements")
	}
	if _, found := r.Objects.Machine(key); found {
		exists(kindMachine, key.Name)
	}
	for _, disk := range p.disks {
		if _, found := r.Objects.Disk(resource.KeyOf(disk)); found {
			exists(kindDisk, disk.GetMetadata().GetName())
		}
	}
	for _, attachment := range p.attachments {
		if _, found := r.Objects.AttachmentExists(resource.KeyOf(attachment)); found {
			exists(kindAttachment, attachment.GetMetadata().GetName())
		}
	}
	if problem := r.addressConflict(p.address); problem != "" {
		problems = append(problems, problem)
	}
	problem, err := r.secretConflict(ctx, key.Namespace, p.secret)
	if problem != "" {
		problems = append(problems, problem)
	}
	return problems, err
}

// addressConflict judges the address: one of that name must be free and the same,
// and no other may have it.
func (r *Reconciler) addressConflict(wanted *networkv1.VirtualMachineIPAddress) string {
	if wanted == nil {
		return ""
	}
	name, static := wanted.GetMetadata().GetName(), wanted.GetSpec().GetStaticIp()
	others := r.Objects.AddressesOf(wanted.GetMetadata().GetNamespace())
	for _, other := range others {
		if other.GetMetadata().GetName() != name {
			continue
		}
		if user := other.GetStatus().GetVirtualMachineName(); user != "" {
			return fmt.Sprintf("%s is attached to VirtualMachine %s", describe(kindAddress, name), user)
		}
		if static != "" && other.GetStatus().GetAddress() != static {
			return fmt.Sprintf("%s has the address %s, and the restored one has %s", describe(kindAddress, name), other.GetStatus().GetAddress(), static)
		}
		return ""
	}
	for _, other := range others {
		if static != "" && other.GetStatus().GetAddress() == static {
			return fmt.Sprintf("the address %s is that of %s", static, describe(kindAddress, other.GetMetadata().GetName()))
		}
	}
	return ""
}

// secretConflict judges the Secret: one of that name must be the same.
func (r *Reconciler) secretConflict(ctx context.Context, namespace string, wanted *recipe.Secret) (string, error) {
	if wanted == nil {
		return "", nil
	}
	present, err := r.Objects.Secret(ctx, resource.Key{Namespace: namespace, Name: wanted.Name})
	switch {
	case fault.Is(err, fault.NotFound):
		return "", nil
	case fault.Is(err, fault.NotReady):
		return fault.From(err).Message, nil
	case err != nil:
		return "", err
	case present.GetType() == wanted.Type && maps.EqualFunc(present.GetData(), wanted.Data, bytes.Equal):
		return "", nil
	}
	return describe(kindSecret, wanted.Name) + " exists with another content", nil
}

func secretOf(kept *recipe.Secret, mark string) *secretv1.Secret {
	return &secretv1.Secret{Type: kept.Type, Data: kept.Data, Mark: mark}
}
