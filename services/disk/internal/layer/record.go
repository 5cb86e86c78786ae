package layer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"orlop.dev/kit/durable"
)

const recordSuffix = ".json"

// record says what a volume or a frozen layer is made of. The truth about
// formats and about what stands on what is here, not in what a file seems to be.
type record struct {
	VirtualBytes int64 `json:"virtualBytes"`
	// File is the name below volumes/. It never changes hands: a frozen layer
	// keeps the file of the volume that it was. ID.qcow2 where it is empty, as
	// earlier versions wrote it.
	File string `json:"file,omitempty"`
	// Base is the name of a file below bases/, Layer a frozen layer: one of them
	// is below this file, or nothing.
	Base       string `json:"base,omitempty"`
	BaseFormat string `json:"baseFormat,omitempty"`
	Layer      string `json:"layer,omitempty"`

	// Place is where a volume is that was copied there, in the caller's words; empty
	// where it was made. Mirror is the file of a copy in the making, MirrorPlace where
	// that is to be.
	Place       string `json:"place,omitempty"`
	Mirror      string `json:"mirror,omitempty"`
	MirrorPlace string `json:"mirrorPlace,omitempty"`

	// Made is a volume whose file was whole once: without it, it is lost.
	Made bool `json:"made,omitempty"`
	// Kept is a layer that somebody asked for by name.
	Kept bool `json:"kept,omitempty"`
	// Switching is a layer that a running VM may still write to.
	Switching bool `json:"switching,omitempty"`
}

// below is what the file stands on.
func (r record) below() record { return record{Base: r.Base, BaseFormat: r.BaseFormat, Layer: r.Layer} }

func (s *Store) recordPath(folder, id string) string {
	return filepath.Join(folder, id+recordSuffix)
}

// read reads a record; false if there is none.
func (s *Store) read(folder, id string) (record, bool, error) {
	var r record
	text, err := os.ReadFile(s.recordPath(folder, id))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, false, fmt.Errorf("record of %s: %w", id, err)
	}
	if r.File == "" {
		r.File = id + "." + Format
	}
	return r, true, nil
}

// write stores a record, durably. The caller holds mu.
func (s *Store) write(folder, id string, r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := s.recordPath(folder, id)
	partial := path + partialSuffix
	if err := os.WriteFile(partial, text, 0o600); err != nil {
		return errors.Join(err, remove(partial))
	}
	return publish(partial, path)
}

// erase removes a record, durably. The caller holds mu.
func (s *Store) erase(folder, id string) error {
	if err := remove(s.recordPath(folder, id)); err != nil {
		return err
	}
	return durable.SyncDir(folder)
}

// graph is all records at one moment.
type graph struct {
	volumes, layers, holds map[string]record
}

// load reads all records. The caller holds mu.
func (s *Store) load() (graph, error) {
	volumes, err := s.all(s.volumes())
	if err != nil {
		return graph{}, err
	}
	layers, err := s.all(s.layers())
	if err != nil {
		return graph{}, err
	}
	holds, err := s.all(s.holds())
	return graph{volumes: volumes, layers: layers, holds: holds}, err
}

func (s *Store) all(folder string) (map[string]record, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	records := map[string]record{}
	for _, entry := range entries {
		id, isRecord := strings.CutSuffix(entry.Name(), recordSuffix)
		if !isRecord {
			continue
		}
		r, found, err := s.read(folder, id)
		if err != nil {
			return nil, err
		}
		if found {
			records[id] = r
		}
	}
	return records, nil
}

// needs reports whether any record stands on what r stands on directly.
func (g graph) needs(r record) bool {
	for _, records := range []map[string]record{g.volumes, g.layers, g.holds} {
		for _, other := range records {
			if r.Layer != "" && other.Layer == r.Layer || r.Base != "" && other.Base == r.Base {
				return true
			}
		}
	}
	return false
}

// files are the names below volumes/ that the records have.
func (g graph) files() map[string]bool {
	names := map[string]bool{}
	for _, records := range []map[string]record{g.volumes, g.layers} {
		for _, r := range records {
			names[r.File] = true
			if r.Mirror != "" {
				names[r.Mirror], names[r.Mirror+markSuffix] = true, true
			}
		}
	}
	return names
}
