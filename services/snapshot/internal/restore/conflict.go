package restore

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

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
	problems = append(problems, r.addressConflicts(p)...)
	problem, err := r.secretConflict(ctx, key.Namespace, p.secret)
	if problem != "" {
		problems = append(problems, problem)
	}
	return problems, err
}

// addressConflicts judges the VM's addresses.
func (r *Reconciler) addressConflicts(p *plan) []string {
	var all []string
	if p.address != nil {
		var others []presence
		for _, ip := range r.Objects.AddressesOf(p.address.GetMetadata().GetNamespace()) {
			others = append(others, presence{ip.GetMetadata().GetName(), ip.GetStatus().GetAddress(), ip.GetStatus().GetVirtualMachineName()})
		}
		all = append(all, addressConflict(kindAddress, p.address.GetMetadata().GetName(), p.address.GetSpec().GetStaticIp(), others))
	}
	if p.mac != nil {
		var others []presence
		for _, mac := range r.Objects.MACsOf(p.mac.GetMetadata().GetNamespace()) {
			others = append(others, presence{mac.GetMetadata().GetName(), mac.GetStatus().GetAddress(), mac.GetStatus().GetVirtualMachineName()})
		}
		// As a status has it, whichever way the spec does.
		wanted := strings.ToLower(strings.ReplaceAll(p.mac.GetSpec().GetAddress(), "-", ":"))
		all = append(all, addressConflict(kindMAC, p.mac.GetMetadata().GetName(), wanted, others))
	}
	return slices.DeleteFunc(all, func(problem string) bool { return problem == "" })
}

// presence is an address that is there.
type presence struct{ name, address, user string }

// addressConflict judges an address: one of that name must be free and the same,
// and no other may have it.
func addressConflict(kind, name, wanted string, others []presence) string {
	for _, other := range others {
		if other.name != name {
			continue
		}
		if other.user != "" {
			return fmt.Sprintf("%s is attached to VirtualMachine %s", describe(kind, name), other.user)
		}
		if wanted != "" && other.address != wanted {
			return fmt.Sprintf("%s has the address %s, and the restored one has %s", describe(kind, name), other.address, wanted)
		}
		return ""
	}
	for _, other := range others {
		if wanted != "" && other.address == wanted {
			return fmt.Sprintf("the address %s is that of %s", wanted, describe(kind, other.name))
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
