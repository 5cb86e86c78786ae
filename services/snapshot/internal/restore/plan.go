package restore

import (
	"cmp"
	"fmt"
	"slices"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/resource/manifest"
	"orlop.dev/services/snapshot/internal/recipe"
)

// markAnnotation is on each object that a restore made: the restore's UID.
const markAnnotation = "snapshot.orlop.dev/restored-by"

const (
	kindMachine    = "VirtualMachine"
	kindDisk       = "VirtualDisk"
	kindAddress    = "VirtualMachineIPAddress"
	kindMAC        = "VirtualMachineMACAddress"
	kindAttachment = "VirtualMachineBlockDeviceAttachment"
	kindSecret     = "Secret"
)

// renaming gives new names to what is restored.
type renaming struct {
	replacements []Replacement
	used         []bool
}

// Replacement is one new name; an empty Kind is any.
type Replacement struct{ Kind, Name, To string }

// name is the new name of an object. An attachment, say, that has none keeps its
// own.
func (r *renaming) name(kind, name string) string {
	for i, replacement := range r.replacements {
		if replacement.Name == name && (replacement.Kind == "" || replacement.Kind == kind) {
			r.used[i] = true
			return replacement.To
		}
	}
	return name
}

// unused are, for people, the replacements of what the snapshot doesn't have.
func (r *renaming) unused() []string {
	var problems []string
	for i, replacement := range r.replacements {
		if !r.used[i] {
			problems = append(problems, fmt.Sprintf("the snapshot has no %s to be named %s",
				describe(cmp.Or(replacement.Kind, "object"), replacement.Name), replacement.To))
		}
	}
	return problems
}

func describe(kind, name string) string { return kind + " " + name }

// plan is what a restore makes, in this order.
type plan struct {
	secret      *recipe.Secret
	address     *networkv1.VirtualMachineIPAddress
	mac         *networkv1.VirtualMachineMACAddress
	disks       []*diskv1.VirtualDisk
	machine     *vmv1.VirtualMachine
	attachments []resource.Object
	renaming    *renaming
}

// newPlan makes the objects of a recipe under their new names, marked.
func newPlan(kept *recipe.Recipe, namespace, mark string, replacements []Replacement) (*plan, error) {
	p := &plan{renaming: &renaming{replacements: replacements, used: make([]bool, len(replacements))}}
	named := p.renaming.name
	adopt := func(object resource.Object) {
		meta := object.GetMetadata()
		meta.Namespace, meta.Name = namespace, named(object.GetKind(), meta.GetName())
		if meta.Annotations == nil {
			meta.Annotations = map[string]string{}
		}
		meta.Annotations[markAnnotation] = mark
	}
	var err error
	if p.machine, err = recipe.Decode(kept.Machine, new(vmv1.VirtualMachine)); err != nil {
		return nil, err
	}
	adopt(p.machine)
	if err := p.addDisks(kept, adopt); err != nil {
		return nil, err
	}
	if err := p.addAddresses(kept, adopt); err != nil {
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

func (p *plan) addAddresses(kept *recipe.Recipe, adopt func(resource.Object)) error {
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
		p.disks = append(p.disks, disk)
	}
	return nil
}

// rename follows the new names in the VM.
func (p *plan) rename() {
	for _, ref := range p.machine.GetSpec().GetBlockDeviceRefs() {
		if ref.GetKind() == vmv1.BlockDeviceKind_VirtualDisk {
			ref.Name = p.renaming.name(kindDisk, ref.GetName())
		}
	}
	provisioning := p.machine.GetSpec().GetProvisioning()
	for _, ref := range []*vmv1.SecretRef{provisioning.GetUserDataRef(), provisioning.GetSysprepRef()} {
		if ref != nil {
			ref.Name = p.renaming.name(kindSecret, ref.GetName())
		}
	}
}

func (p *plan) addAttachments(kept *recipe.Recipe, adopt func(resource.Object)) error {
	if len(kept.Attachments) == 0 {
		return nil
	}
	all := kind.All()
	at := slices.IndexFunc(all, func(k *kind.Kind) bool { return k.Name == kindAttachment })
	if at < 0 {
		return fmt.Errorf("kind %s is not known here", kindAttachment)
	}
	for _, text := range kept.Attachments {
		object, err := recipe.Decode(text, resource.New[resource.Object](all[at]))
		if err != nil {
			return err
		}
		whole, err := manifest.Encode(object)
		if err != nil {
			return err
		}
		spec, _ := whole["spec"].(map[string]any)
		device, _ := spec["blockDeviceRef"].(map[string]any)
		spec["virtualMachineName"] = p.machine.GetMetadata().GetName()
		if device["kind"] == kindDisk {
			name, _ := device["name"].(string)
			device["name"] = p.renaming.name(kindDisk, name)
		}
		fresh := resource.New[resource.Object](all[at])
		if err := manifest.Decode(whole, fresh); err != nil {
			return err
		}
		adopt(fresh)
		p.attachments = append(p.attachments, fresh)
	}
	return nil
}
