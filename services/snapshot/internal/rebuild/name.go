package rebuild

// Names gives new names to what is made.
type Names struct {
	Replacements []Replacement
	// Prefix and Suffix go around each name that is not replaced.
	Prefix, Suffix string
}

// Replacement is one new name; an empty Kind is any.
type Replacement struct{ Kind, Name, To string }

// name is the new name of an object. A replacement of what there is not, as in the
// guide's own example, is of no account.
func (n *Names) name(kind, name string) string {
	for _, replacement := range n.Replacements {
		if replacement.Name == name && (replacement.Kind == "" || replacement.Kind == kind) {
			return replacement.To
		}
	}
	return n.Prefix + name + n.Suffix
}

func describe(kind, name string) string { return kind + " " + name }
