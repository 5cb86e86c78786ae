package rebuild

import (
	"cmp"
	"fmt"
)

// Names gives new names to what is made.
type Names struct {
	Replacements []Replacement
	// Prefix and Suffix go around each name that is not replaced.
	Prefix, Suffix string
}

// Replacement is one new name; an empty Kind is any.
type Replacement struct{ Kind, Name, To string }

// renaming is Names at work: it knows which replacements were of use.
type renaming struct {
	Names
	used []bool
}

func newRenaming(names Names) *renaming {
	return &renaming{Names: names, used: make([]bool, len(names.Replacements))}
}

// name is the new name of an object.
func (r *renaming) name(kind, name string) string {
	for i, replacement := range r.Replacements {
		if replacement.Name == name && (replacement.Kind == "" || replacement.Kind == kind) {
			r.used[i] = true
			return replacement.To
		}
	}
	return r.Prefix + name + r.Suffix
}

// unused are the replacements of what the snapshot doesn't have.
func (r *renaming) unused() []Item {
	var items []Item
	for i, replacement := range r.Replacements {
		if !r.used[i] {
			items = append(items, Item{
				Kind: cmp.Or(replacement.Kind, "object"), Name: replacement.Name,
				Problem: fmt.Sprintf("the snapshot has no %s to be named %s",
					describe(cmp.Or(replacement.Kind, "object"), replacement.Name), replacement.To),
			})
		}
	}
	return items
}

func describe(kind, name string) string { return kind + " " + name }
