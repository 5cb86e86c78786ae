package rebuild

import (
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/services/snapshot/internal/recipe"
)

// markAnnotation is on each object that a job made: its owner's UID.
const markAnnotation = "snapshot.orlop.dev/restored-by"

const (
	kindMachine    = "VirtualMachine"
	kindDisk       = "VirtualDisk"
	kindAddress    = "VirtualMachineIPAddress"
	kindMAC        = "VirtualMachineMACAddress"
	kindAttachment = "VirtualMachineBlockDeviceAttachment"
	kindSecret     = "Secret"
)

// plan is what a job makes.
type plan struct {
	secret      *recipe.Secret
	address     *networkv1.VirtualMachineIPAddress
	mac         *networkv1.VirtualMachineMACAddress
	disks       []*plannedDisk
	machine     *vmv1.VirtualMachine
	attachments []*vmv1.VirtualMachineBlockDeviceAttachment
	names       *Names
	// memory is what a VM that is put back goes on from.
	memory string
}

// plannedDisk is a disk with the UID of the snapshot that has its data.
type plannedDisk struct {
	*diskv1.VirtualDisk
	source string
}

// newPlan makes the objects of a recipe under their new names, marked.
func newPlan(kept *recipe.Recipe, job *Job) (*plan, error) {
	p := &plan{names: &job.Names, memory: kept.Memory}
	named := p.names.name
	adopt := func(object resource.Object) {
		meta := object.GetMetadata()
		meta.Namespace, meta.Name = job.Owner.GetNamespace(), named(object.GetKind(), meta.GetName())
		if meta.Annotations == nil {
			meta.Annotations = map[string]string{}
		}
		meta.Annotations[markAnnotation] = job.Owner.GetUid()
	}
	var err error
	if p.machine, err = recipe.Decode(kept.Machine, new(vmv1.VirtualMachine)); err != nil {
		return nil, err
	}
	adopt(p.machine)
	if err := p.addDisks(kept, adopt); err != nil {
		return nil, err
	}
	if err := p.addAddresses(kept, job, adopt); err != nil {
		return nil, err
	}
	if kept.Secret != nil {
		secret := *kept.Secret
		secret.Name = named(kindSecret, secret.Name)
		p.secret = &secret
	}
	p.rename()
	return p, p.addAttachments(kept, adopt)
}

func (p *plan) addDisks(kept *recipe.Recipe, adopt func(resource.Object)) error {
	for _, one := range kept.Disks {
		disk, err := recipe.Decode(one.Manifest, new(diskv1.VirtualDisk))
		if err != nil {
			return err
		}
		adopt(disk)
		// Size and class come from the snapshot, unless the disk says more.
		disk.Spec.DataSource = &diskv1.DiskDataSource{
			Type: imagev1.DataSourceType_ObjectRef,
			ObjectRef: &diskv1.DiskObjectRef{
				Kind: diskv1.DiskObjectRefKind_VirtualDiskSnapshot, Name: one.Snapshot,
			},
		}
		p.disks = append(p.disks, &plannedDisk{VirtualDisk: disk, source: one.Source.ID})
	}
	return nil
}

// addAddresses gives the VM the addresses that were kept, or leaves it to have
// others.
func (p *plan) addAddresses(kept *recipe.Recipe, job *Job, adopt func(resource.Object)) error {
	if job.Fresh {
		p.machine.Spec.VirtualMachineIpAddressName, p.machine.Spec.Networks = "", nil
		return nil
	}
	var err error
	if kept.Address != nil {
		if p.address, err = recipe.Decode(kept.Address, new(networkv1.VirtualMachineIPAddress)); err != nil {
			return err
		}
		adopt(p.address)
		p.machine.Spec.VirtualMachineIpAddressName = p.address.GetMetadata().GetName()
	}
	if kept.MAC != nil {
		if p.mac, err = recipe.Decode(kept.MAC, new(networkv1.VirtualMachineMACAddress)); err != nil {
			return err
		}
		adopt(p.mac)
		p.machine.Spec.Networks = []*vmv1.NetworkRef{{
			Type: vmv1.NetworkType_Main, VirtualMachineMacAddressName: p.mac.GetMetadata().GetName(),
		}}
	}
	return nil
}

// rename follows the new names in the VM.
func (p *plan) rename() {
	for _, ref := range p.machine.GetSpec().GetBlockDeviceRefs() {
		if ref.GetKind() == vmv1.BlockDeviceKind_VirtualDisk {
			ref.Name = p.names.name(kindDisk, ref.GetName())
		}
	}
	provisioning := p.machine.GetSpec().GetProvisioning()
	for _, ref := range []*vmv1.SecretRef{provisioning.GetUserDataRef(), provisioning.GetSysprepRef()} {
		if ref != nil {
			ref.Name = p.names.name(kindSecret, ref.GetName())
		}
	}
}

func (p *plan) addAttachments(kept *recipe.Recipe, adopt func(resource.Object)) error {
	for _, text := range kept.Attachments {
		attachment, err := recipe.Decode(text, new(vmv1.VirtualMachineBlockDeviceAttachment))
		if err != nil {
			return err
		}
		adopt(attachment)
		attachment.Spec.VirtualMachineName = p.machine.GetMetadata().GetName()
		if ref := attachment.GetSpec().GetBlockDeviceRef(); ref.GetKind() == vmv1.BlockDeviceKind_VirtualDisk {
			ref.Name = p.names.name(kindDisk, ref.GetName())
		}
		p.attachments = append(p.attachments, attachment)
	}
	return nil
}

// objects are in the order in which they are made: the VM when all that it needs
// is there.
func (p *plan) objects() []resource.Object {
	var all []resource.Object
	if p.address != nil {
		all = append(all, p.address)
	}
	if p.mac != nil {
		all = append(all, p.mac)
	}
	for _, disk := range p.disks {
		all = append(all, disk.VirtualDisk)
	}
	all = append(all, p.machine)
	for _, attachment := range p.attachments {
		all = append(all, attachment)
	}
	return all
}

// has reports whether the plan makes an attachment of that name.
func (p *plan) has(attachment string) bool {
	for _, one := range p.attachments {
		if one.GetMetadata().GetName() == attachment {
			return true
		}
	}
	return false
}

// source is the UID of the snapshot that has a disk's data.
func (p *plan) source(disk string) string {
	for _, one := range p.disks {
		if one.GetMetadata().GetName() == disk {
			return one.source
		}
	}
	return ""
}
