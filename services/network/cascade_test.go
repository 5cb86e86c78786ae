package network_test

import (
	"context"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"
)

// machines serves VirtualMachines as the VM service does, with no rules.
func machines(t *testing.T, client *clientv3.Client) (*resource.Client[*vmv1.VirtualMachine], grpc.ClientConnInterface) {
	t.Helper()
	k := kind.Must(&vmv1.VirtualMachine{})
	c, err := resource.NewCollection[*vmv1.VirtualMachine](client, "/machines", k, resource.Options{})
	if err != nil {
		t.Fatal(err)
	}
	methods, err := resource.NewMethods(resource.MethodOptions[*vmv1.VirtualMachine]{Collection: c})
	if err != nil {
		t.Fatal(err)
	}
	conn, _ := host(t, serve.Part{Name: "machines", Ready: c.WaitSynced, Run: c.Run, Register: func(r grpc.ServiceRegistrar) error {
		return resource.Register(r, &vmv1.VirtualMachineService_ServiceDesc, nil, methods)
	}})
	caller, err := resource.NewClient[*vmv1.VirtualMachine](conn, k)
	if err != nil {
		t.Fatal(err)
	}
	return caller, conn
}

func TestAddressesGoWithTheirMachineUnlessKubernetesSeesToIt(t *testing.T) {
	client := store(t)
	vms, conn := machines(t, client)
	opts := userOptions(t, client, "10.66.10.0/24")
	opts.VirtualMachines = conn
	r := start(t, opts)
	vm, err := vms.Create(t.Context(), &vmv1.VirtualMachine{
		Metadata: &metav1.ObjectMeta{Namespace: "default", Name: "vm"}, Spec: &vmv1.VirtualMachineSpec{},
	}, resource.WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, annotations := range map[string]map[string]string{"owned": nil, "mirrored": {"orlop.dev/mirrored": "uid"}} {
		ip := auto(name)
		ip.Metadata.Annotations = annotations
		ip.Metadata.OwnerReferences = []*metav1.OwnerReference{{
			ApiVersion: vm.GetApiVersion(), Kind: vm.GetKind(), Name: "vm", Uid: vm.GetMetadata().GetUid(), Controller: proto.Bool(true),
		}}
		r.createBound(ip)
		mac := card(name, "")
		mac.Metadata.Annotations, mac.Metadata.OwnerReferences = annotations, ip.GetMetadata().GetOwnerReferences()
		r.createBoundMAC(mac)
	}
	r.createBound(auto("saved")) // its owners were taken away
	r.createBoundMAC(card("saved", ""))
	if _, err := vms.Delete(context.Background(), key("vm"), resource.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, r.addresses, key("owned"))
	awaitGone(t, r.macs, key("owned"))
	for _, name := range []string{"mirrored", "saved"} {
		ip, err := r.addresses.Get(t.Context(), key(name))
		if err != nil || ip.GetMetadata().GetDeletionTimestamp() != nil || ip.GetStatus().GetPhase() != networkv1.IPAddressPhase_Bound {
			t.Errorf("%s: %v, %v", name, ip, err)
		}
		mac, err := r.macs.Get(t.Context(), key(name))
		if err != nil || mac.GetMetadata().GetDeletionTimestamp() != nil || mac.GetStatus().GetPhase() != networkv1.IPAddressPhase_Bound {
			t.Errorf("%s: %v, %v", name, mac, err)
		}
	}
}
