package layer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const recordSuffix = ".json"

// record says what a volume is made of. The truth about formats is here, not in
// what a file seems to be.
type record struct {
	VirtualBytes int64 `json:"virtualBytes"`
	// Base is the name of the file below bases/; empty for an empty disk.
	Base       string `json:"base,omitempty"`
	BaseFormat string `json:"baseFormat,omitempty"`
}

func (s *Store) recordPath(id string) string { return filepath.Join(s.volumes(), id+recordSuffix) }

func (s *Store) readRecord(id string) (record, error) {
	var r record
	text, err := os.ReadFile(s.recordPath(id))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("record of volume %s: %w", id, err)
	}
	return r, nil
}

func (s *Store) writeRecord(id string, r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	partial := s.recordPath(id) + partialSuffix
	if err := os.WriteFile(partial, text, 0o600); err != nil {
		return err
	}
	return publish(partial, s.recordPath(id))
}

// users counts the volumes that stand on a base. The caller holds mu.
func (s *Store) users(base string) (int, error) {
	entries, err := os.ReadDir(s.volumes())
	if err != nil {
		return 0, err
	}
	count := 0
	for _, entry := range entries {
		id, isRecord := strings.CutSuffix(entry.Name(), recordSuffix)
		if !isRecord {
			continue
		}
		r, err := s.readRecord(id)
		if err != nil {
			return 0, err
		}
		if r.Base == base {
			count++
		}
	}
	return count, nil
}
