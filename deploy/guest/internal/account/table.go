package account

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// modes of the files; shadow's secrets are for root alone.
var modes = map[string]os.FileMode{"passwd": 0o644, "group": 0o644, "shadow": 0o600}

// table is a file of lines whose fields are parted by colons, keyed by the
// first one.
type table [][]string

func (s Store) table(name string) (table, error) {
	content, err := os.ReadFile(filepath.Join(s.Root, "etc", name))
	if err != nil {
		return nil, err
	}
	var rows table
	for line := range strings.Lines(string(content)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" {
			rows = append(rows, strings.Split(line, ":"))
		}
	}
	return rows, nil
}

func (s Store) write(name string, rows table) error {
	var text strings.Builder
	for _, row := range rows {
		text.WriteString(strings.Join(row, ":") + "\n")
	}
	return replace(filepath.Join(s.Root, "etc", name), []byte(text.String()), modes[name], User{})
}

func (t table) find(key string) []string {
	for _, row := range t {
		if row[0] == key {
			return row
		}
	}
	return nil
}

// put replaces the row of the same key, or adds one.
func (t *table) put(row []string) {
	for i := range *t {
		if (*t)[i][0] == row[0] {
			(*t)[i] = row
			return
		}
	}
	*t = append(*t, row)
}

func (t table) taken(column, id int) bool {
	for _, row := range t {
		if len(row) > column && row[column] == strconv.Itoa(id) {
			return true
		}
	}
	return false
}

func (t table) freeID(column int) int {
	id := firstID
	for id < lastID && t.taken(column, id) {
		id++
	}
	return id
}

// replace puts a file in place in one step, so that a guest that loses power
// has the old file or the new one.
func replace(path string, content []byte, mode os.FileMode, owner User) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := file.Chmod(mode); err != nil {
		return err
	}
	if err := file.Chown(owner.ID, owner.GID); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
