package storageclass_test

import (
	"testing"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/services/disk/internal/storageclass"
)

func TestClassOfADisk(t *testing.T) {
	for _, test := range []struct {
		name, configured, marked, asked string
		want                            string // empty: refused
	}{
		{name: "by its name", asked: "local-wffc", marked: "local", want: "local-wffc"},
		{name: "the cluster's default", marked: "local-wffc", want: "local-wffc"},
		{name: "the configuration's before the cluster's", configured: "local-wffc", marked: "local", want: "local-wffc"},
		{name: "one that there isn't", asked: "fast", marked: "local"},
		{name: "no default at all", marked: ""},
		{name: "a default that is none of ours", marked: "foreign"},
		{name: "a configuration's that there isn't", configured: "fast", marked: "local"},
	} {
		t.Run(test.name, func(t *testing.T) {
			changes := 0
			classes := storageclass.New(storageclass.Options{
				Etcd: etcdtest.Start(t), Prefix: "/disk", Default: test.configured, Changed: func() { changes++ },
			})
			for range 2 { // telling the same twice changes nothing
				if _, err := classes.SetDefaultStorageClass(t.Context(), &diskv1.SetDefaultStorageClassRequest{Name: test.marked}); err != nil {
					t.Fatal(err)
				}
			}
			if moved := test.marked != storageclass.Local; (changes == 1) != moved || changes > 1 {
				t.Errorf("%d changes were told", changes)
			}
			class, err := classes.Choose(t.Context(), test.asked)
			refused := fault.Is(err, fault.NotReady) && fault.From(err).Reason == storageclass.ReasonNotReady
			if test.want == "" && !refused {
				t.Fatalf("the class is %v, %v", class.GetName(), err)
			}
			if test.want != "" && (err != nil || class.GetName() != test.want) {
				t.Fatalf("the class is %v, %v", class.GetName(), err)
			}
		})
	}
}

func TestUntilToldOtherwiseLocalIsTheDefault(t *testing.T) {
	classes := storageclass.New(storageclass.Options{Etcd: etcdtest.Start(t), Prefix: "/disk"})
	list, err := classes.ListStorageClasses(t.Context(), &diskv1.ListStorageClassesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, class := range list.GetItems() {
		if class.GetIsDefault() != (class.GetName() == storageclass.Local) {
			t.Errorf("%s is the default: %t", class.GetName(), class.GetIsDefault())
		}
	}
	if len(list.GetItems()) != 2 {
		t.Errorf("there are %d classes", len(list.GetItems()))
	}
}
