package rebuild

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strings"

	"google.golang.org/protobuf/proto"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	secretv1 "orlop.dev/gen/orlop/secret/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/recipe"
)

const (
	actionMake    = "made"
	actionPutBack = "put back"
	actionUse     = "used as it is"
)

// judge says of each object of a plan what is done with it, and what stands in the
// way (guide, "Restore virtual machines from snapshots"; api.md of the platform,
// B.8). It takes from the plan what is not to be made.
func (e *Engine) judge(ctx context.Context, job *Job, p *plan) ([]Item, error) {
	machine, err := e.judgeMachine(ctx, job, p)
	if err != nil {
		return nil, err
	}
	items := append([]Item{machine}, e.judgeDisks(job, p)...)
	items = append(items, e.judgeAttachments(job, p)...)
	items = append(items, e.judgeAddresses(job, p)...)
	if p.secret != nil {
		secret, err := e.judgeSecret(ctx, job.Owner.GetNamespace(), p.secret)
		if err != nil {
			return nil, err
		}
		items = append(items, secret)
	}
	missing, err := e.judgeImages(ctx, job, p)
	return append(items, missing...), err
}

func itemOf(object resource.Object) Item {
	return Item{APIVersion: object.GetApiVersion(), Kind: object.GetKind(), Name: object.GetMetadata().GetName(), Action: actionMake}
}

func (e *Engine) judgeMachine(ctx context.Context, job *Job, p *plan) (Item, error) {
	item := itemOf(p.machine)
	found, there := e.Objects.Machine(resource.KeyOf(p.machine))
	switch {
	case !there:
		return item, nil
	case !job.InPlace:
		item.Problem = exists(item)
		return item, nil
	case resource.Terminating(found):
		item.Problem = describe(item.Kind, item.Name) + " is being deleted"
		return item, nil
	}
	item.Action = actionPutBack
	err := e.Maker.UpdateMachine(ctx, overwritten(found, p.machine), true)
	if fault.Is(err, fault.Invalid, fault.Denied) {
		item.Problem, err = fault.From(err).Message, nil
	}
	return item, err
}

func exists(item Item) string {
	return describe(item.Kind, item.Name) + " exists: delete it, or give the restored one another name by nameReplacements"
}

// overwritten is a VM that is there as a plan has it. What other controllers wrote
// of that one object stays.
func overwritten(there, planned *vmv1.VirtualMachine) *vmv1.VirtualMachine {
	vm := proto.CloneOf(there)
	vm.Spec = proto.CloneOf(planned.GetSpec())
	vm.Metadata.Labels = recipe.Overwritten(there.GetMetadata().GetLabels(), planned.GetMetadata().GetLabels())
	vm.Metadata.Annotations = recipe.Overwritten(there.GetMetadata().GetAnnotations(), planned.GetMetadata().GetAnnotations())
	return vm
}

func (e *Engine) judgeDisks(job *Job, p *plan) []Item {
	var items []Item
	for _, disk := range p.disks {
		item := itemOf(disk.VirtualDisk)
		if found, there := e.Objects.Disk(resource.KeyOf(disk.VirtualDisk)); there {
			item.Action, item.Problem = actionPutBack, diskProblem(job, item, found, p.machine.GetMetadata().GetName())
		}
		items = append(items, item)
	}
	return items
}

// diskProblem says why a disk that is there can't be put back.
func diskProblem(job *Job, item Item, disk *diskv1.VirtualDisk, machine string) string {
	if !job.InPlace {
		return exists(item)
	}
	for _, user := range disk.GetStatus().GetAttachedToVirtualMachines() {
		if user.GetName() != machine && user.GetMounted() {
			return fmt.Sprintf("%s is attached to VirtualMachine %s", describe(item.Kind, item.Name), user.GetName())
		}
	}
	if phase := disk.GetStatus().GetPhase(); phase != diskv1.DiskPhase_Ready {
		return fmt.Sprintf("%s is not Ready: %s", describe(item.Kind, item.Name), phase)
	}
	return ""
}

func (e *Engine) judgeAttachments(job *Job, p *plan) []Item {
	var items []Item
	for _, attachment := range p.attachments {
		item := itemOf(attachment)
		found, there := e.Objects.Attachment(resource.KeyOf(attachment))
		switch {
		case there && !job.InPlace:
			item.Problem = exists(item)
		case there && proto.Equal(found.GetSpec(), attachment.GetSpec()):
			item.Action = actionUse
		case there:
			item.Problem = fmt.Sprintf("%s attaches %s to VirtualMachine %s", describe(item.Kind, item.Name),
				found.GetSpec().GetBlockDeviceRef().GetName(), found.GetSpec().GetVirtualMachineName())
		}
		items = append(items, item)
	}
	return items
}

// judgeAddresses judges the VM's addresses, of IP and MAC.
func (e *Engine) judgeAddresses(job *Job, p *plan) []Item {
	user := ""
	if job.InPlace {
		user = p.machine.GetMetadata().GetName()
	}
	var items []Item
	if p.address != nil {
		var others []presence
		for _, ip := range e.Objects.AddressesOf(job.Owner.GetNamespace()) {
			others = append(others, presence{ip.GetMetadata().GetName(), ip.GetStatus().GetAddress(), ip.GetStatus().GetVirtualMachineName()})
		}
		items = append(items, judgeAddress(itemOf(p.address), p.address.GetSpec().GetStaticIp(), user, others))
	}
	if p.mac != nil {
		var others []presence
		for _, mac := range e.Objects.MACsOf(job.Owner.GetNamespace()) {
			others = append(others, presence{mac.GetMetadata().GetName(), mac.GetStatus().GetAddress(), mac.GetStatus().GetVirtualMachineName()})
		}
		// As a status has it, whichever way the spec does.
		wanted := strings.ToLower(strings.ReplaceAll(p.mac.GetSpec().GetAddress(), "-", ":"))
		items = append(items, judgeAddress(itemOf(p.mac), wanted, user, others))
	}
	return items
}

// presence is an address that is there.
type presence struct{ name, address, user string }

// judgeAddress judges an address: one of that name must be the same, and free or
// that VM's own, and no other may have it.
func judgeAddress(item Item, wanted, machine string, others []presence) Item {
	for _, other := range others {
		if other.name != item.Name {
			continue
		}
		item.Action = actionUse
		switch {
		case other.user != "" && other.user != machine:
			item.Problem = fmt.Sprintf("%s is attached to VirtualMachine %s", describe(item.Kind, item.Name), other.user)
		case wanted != "" && other.address != wanted:
			item.Problem = fmt.Sprintf("%s has the address %s, and the restored one has %s", describe(item.Kind, item.Name), other.address, wanted)
		}
		return item
	}
	for _, other := range others {
		if wanted != "" && other.address == wanted {
			item.Problem = fmt.Sprintf("the address %s is that of %s", wanted, describe(item.Kind, other.name))
		}
	}
	return item
}

// judgeSecret judges the Secret: one of that name must be the same.
func (e *Engine) judgeSecret(ctx context.Context, namespace string, wanted *recipe.Secret) (Item, error) {
	item := Item{APIVersion: "v1", Kind: kindSecret, Name: wanted.Name, Action: actionMake}
	present, err := e.Objects.Secret(ctx, resource.Key{Namespace: namespace, Name: wanted.Name})
	switch {
	case fault.Is(err, fault.NotFound):
		return item, nil
	case fault.Is(err, fault.NotReady):
		item.Problem = fault.From(err).Message
		return item, nil
	case err != nil:
		return item, err
	case present.GetType() == wanted.Type && maps.EqualFunc(present.GetData(), wanted.Data, bytes.Equal):
		item.Action = actionUse
	default:
		item.Problem = describe(kindSecret, wanted.Name) + " exists with another content"
	}
	return item, nil
}

func secretOf(kept *recipe.Secret, mark string) *secretv1.Secret {
	return &secretv1.Secret{Type: kept.Type, Data: kept.Data, Mark: mark}
}

// judgeImages looks for the images that the VM refers to. It drops missing ones
// from the plan, if the job says so.
func (e *Engine) judgeImages(ctx context.Context, job *Job, p *plan) ([]Item, error) {
	if job.Images == Keep {
		return nil, nil
	}
	var items []Item
	gone := func(kind vmv1.BlockDeviceKind_Value, name string) (bool, error) {
		if kind == vmv1.BlockDeviceKind_VirtualDisk {
			return false, nil
		}
		there, err := e.Objects.ImageExists(ctx, kind, resource.Key{Namespace: job.Owner.GetNamespace(), Name: name})
		if there || err != nil {
			return false, err
		}
		items = append(items, missingImage(job, kind.String(), name, p.machine.GetApiVersion()))
		return true, nil
	}
	refs := p.machine.GetSpec().GetBlockDeviceRefs()
	keptRefs := make([]*vmv1.BlockDeviceRef, 0, len(refs))
	for _, ref := range refs {
		missing, err := gone(ref.GetKind(), ref.GetName())
		if err != nil {
			return nil, err
		}
		if !missing {
			keptRefs = append(keptRefs, ref)
		}
	}
	p.machine.Spec.BlockDeviceRefs = keptRefs
	var attachments []*vmv1.VirtualMachineBlockDeviceAttachment
	for _, attachment := range p.attachments {
		ref := attachment.GetSpec().GetBlockDeviceRef()
		missing, err := gone(ref.GetKind(), ref.GetName())
		if err != nil {
			return nil, err
		}
		if !missing {
			attachments = append(attachments, attachment)
		}
	}
	p.attachments = attachments
	return items, nil
}

func missingImage(job *Job, kind, name, version string) Item {
	item := Item{APIVersion: version, Kind: kind, Name: name, Action: "left out: it does not exist"}
	if job.Images == Refuse {
		item.Action, item.Problem = "", describe(kind, name)+" does not exist"
	}
	return item
}
