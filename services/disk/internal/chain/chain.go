// Package chain reads a disk through the files that it is made of: what is
// allocated, by qemu-img, and what is in it, by an NBD connection to
// qemu-storage-daemon.
//
// It must not know where files come from, nor how a tool is held (package jail). Each file
// and each format is named: nothing is ever probed, and no name in a file is
// followed.
package chain

import (
	"encoding/json"
	"errors"
)

// File is one file of a disk.
type File struct {
	// Path of the file, absolute.
	Path string
	// Format is what it is known to be: qcow2, vmdk, vdi or raw.
	Format string
}

// Chain is a disk's files: each next one shows through where the one before
// has nothing.
type Chain []File

// Priority says whose turn comes first.
type Priority int

const (
	// Usual is that of the process itself.
	Usual Priority = iota
	// Idle work runs when nothing else wants the processor or the disk.
	Idle
)

// ErrEmpty is a chain without files.
var ErrEmpty = errors.New("a chain needs a file")

// node is a block node as QEMU's BlockdevOptions describe it.
type node struct {
	Driver   string          `json:"driver"`
	NodeName string          `json:"node-name,omitempty"`
	ReadOnly bool            `json:"read-only,omitempty"`
	File     file            `json:"file"`
	Backing  json.RawMessage `json:"backing,omitempty"`
}

type file struct {
	Driver   string `json:"driver"`
	Filename string `json:"filename"`
}

// describe tells QEMU of the whole chain. name is the top node's.
func (c Chain) describe(name string) (json.RawMessage, error) {
	if len(c) == 0 {
		return nil, ErrEmpty
	}
	below := json.RawMessage("null")
	for i := len(c) - 1; i >= 0; i-- {
		n := node{Driver: c[i].Format, ReadOnly: true, File: file{Driver: "file", Filename: c[i].Path}}
		if c[i].Format == "qcow2" || c[i].Format == "vmdk" {
			n.Backing = below
		}
		if i == 0 {
			n.NodeName = name
		}
		text, err := json.Marshal(n)
		if err != nil {
			return nil, err
		}
		below = text
	}
	return below, nil
}
