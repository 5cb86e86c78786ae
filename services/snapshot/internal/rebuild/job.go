package rebuild

import (
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/resource"
	"orlop.dev/kit/resource/record"
	"orlop.dev/services/snapshot/internal/recipe"
)

// Job is one VM to be made again.
type Job struct {
	// Owner wants it. Its UID marks what is made.
	Owner *metav1.Holder
	// Snapshot is the name of the VirtualMachineSnapshot, in the owner's namespace.
	Snapshot string
	Names    Names
	// InPlace puts back what is there; else what is there is a conflict.
	InPlace bool
	// Fresh leaves the address to be another one.
	Fresh bool
	// Images says what becomes of images that the VM refers to and that are missing.
	Images Missing
}

// Missing says what to do about what is not there.
type Missing int

const (
	// Keep makes the VM all the same: it waits for them.
	Keep Missing = iota
	// Refuse makes nothing.
	Refuse
	// Drop makes the VM without them.
	Drop
)

func (j *Job) snapshotKey() resource.Key {
	return resource.Key{Namespace: j.Owner.GetNamespace(), Name: j.Snapshot}
}

// Record is how far a job is.
type Record struct {
	record.Version

	// Tried is a job that only said what it would do.
	Tried bool `json:"tried,omitempty"`
	// Checked is a job that nothing stood in the way of: it makes things.
	Checked bool `json:"checked,omitempty"`
	// Machine is the UID of the VM that is kept off meanwhile.
	Machine string `json:"machine,omitempty"`
	// Swapping is one that has begun to put disks back: it only goes on.
	Swapping bool `json:"swapping,omitempty"`
	// Memory is the token of the memory that a VM goes on from which was put back.
	Memory string `json:"memory,omitempty"`
	// Made is one that has made all, Failure one that has made nothing, or will have
	// when it has taken back what it made.
	Made    bool            `json:"made,omitempty"`
	Undone  bool            `json:"undone,omitempty"`
	Failure *recipe.Failure `json:"failure,omitempty"`
	// Items are what it makes or puts back.
	Items []Item `json:"items,omitempty"`
}

// Item is one object of a job.
type Item struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	// Action is what is done with it, as in "it is made"; Problem says what stands in
	// the way. Both are for people.
	Action  string `json:"action,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// NewStore returns the records of a service's prefix, by the UIDs of owners.
func NewStore(client *clientv3.Client, prefix string) *record.Store[Record, *Record] {
	return record.New[Record](client, prefix+"/restore/")
}

// Progress is what one look at a job found.
type Progress struct {
	Record *Record
	// Waits says what the job waits for; nil where it waits for nothing.
	Waits *fault.Fault
	// Again is when to look next; zero where events will tell.
	Again time.Duration
}

// Failed reports whether the job has failed and left nothing behind.
func (p *Progress) Failed() bool { return p.Record.Failure != nil && p.Record.Undone }

// Resources are the job's objects as a status tells them.
func (p *Progress) Resources() []*vmv1.OperationResource {
	var all []*vmv1.OperationResource
	for _, item := range p.Record.Items {
		one := &vmv1.OperationResource{
			ApiVersion: item.APIVersion, Kind: item.Kind, Name: item.Name,
			Message: "It is to be " + item.Action + ".", Status: vmv1.OperationResourceStatus_InProgress,
		}
		switch {
		case item.Problem != "":
			one.Status, one.Message = vmv1.OperationResourceStatus_Failed, item.Problem
		case p.Record.Made:
			one.Status, one.Message = vmv1.OperationResourceStatus_Completed, "It is "+item.Action+"."
		case p.Record.Tried:
			one.Status, one.Message = vmv1.OperationResourceStatus_Completed, "It would be "+item.Action+"."
		case p.Record.Failure != nil:
			one.Status, one.Message = vmv1.OperationResourceStatus_Failed, "Nothing was done with it."
		}
		all = append(all, one)
	}
	return all
}
