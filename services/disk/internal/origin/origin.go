// Package origin remembers how each disk came to be: where its volume was made,
// what it still has of the image service, and when which step was done.
//
// It owns one etcd key a disk, apart from the volumes, so that a volume that is
// gone is told from one that never was. It must not know what a step means.
package origin

import (
	"encoding/json"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"orlop.dev/kit/resource/record"
)

// Record is the memory of one disk.
type Record struct {
	record.Version

	// Class and Node are where the volume is, written down before it is made. Node
	// is empty where every node reaches it.
	Class string `json:"class,omitempty"`
	Node  string `json:"node,omitempty"`
	// Bytes is the size that the volume was last seen to have.
	Bytes int64 `json:"bytes,omitempty"`
	// Source is the data source, in JSON, of which the image service keeps
	// something for the disk: written down before it is asked for, and cleared
	// after it was given back.
	Source json.RawMessage `json:"source,omitempty"`

	// Imported is when the import was done, nil for a disk that needs none, and
	// Importing when it was first asked for.
	Importing *time.Time `json:"importing,omitempty"`
	Imported  *time.Time `json:"imported,omitempty"`
	// Prepared is when all that the disk depends on was there, Consumed when a
	// VM asked for it, Made when its volume was seen.
	Prepared *time.Time `json:"prepared,omitempty"`
	Consumed *time.Time `json:"consumed,omitempty"`
	Made     *time.Time `json:"made,omitempty"`
}

// Store keeps the records of disks by their UIDs.
type Store = record.Store[Record, *Record]

// NewStore returns the records of a service's prefix.
func NewStore(client *clientv3.Client, prefix string) *Store {
	return record.New[Record](client, prefix+"/origin/")
}
