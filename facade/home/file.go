package home

import (
	"encoding/json"
	"fmt"
	"os"

	"orlop.dev/kit/durable"
)

// WriteFile replaces a file, readable by its owner only, so that a reader and a
// crash find the old one or the new one.
func WriteFile(path string, content []byte) error {
	if err := durable.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, value any) error {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(path, append(content, '\n'))
}

func readJSON(path string, value any) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, value); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
