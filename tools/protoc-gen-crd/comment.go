package main

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// description is d's leading comment, as `kubectl explain` will show it: the
// lines of a paragraph joined, paragraphs and list items kept apart.
func description(d protoreflect.Descriptor) string {
	comment := d.ParentFile().SourceLocations().ByDescriptor(d).LeadingComments
	var out strings.Builder
	gap := ""
	for line := range strings.Lines(comment) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "buf:lint:"):
			continue // speaks to the linter, not to people
		case line == "":
			gap = "\n\n"
			continue
		case isItem(line) && gap == " ":
			gap = "\n"
		}
		if out.Len() > 0 {
			out.WriteString(gap)
		}
		out.WriteString(line)
		gap = " "
	}
	return out.String()
}

func isItem(line string) bool {
	return strings.HasPrefix(line, "- ") || strings.HasPrefix(line, "* ")
}

// fieldDescription says what a field is for: its own comment, else that of its
// message; then what each word of an enum means.
func fieldDescription(f protoreflect.FieldDescriptor) string {
	text := description(f)
	if text == "" && f.Message() != nil && !f.IsMap() && !isWellKnown(f.Message()) {
		text = description(f.Message())
	}
	if f.Enum() == nil {
		return text
	}
	if text == "" {
		text = description(f.Enum().Parent())
	}
	var words strings.Builder
	for i := range f.Enum().Values().Len() {
		v := f.Enum().Values().Get(i)
		if meaning := description(v); v.Number() != 0 && meaning != "" {
			words.WriteString("\n- " + string(v.Name()) + ": " + meaning)
		}
	}
	if words.Len() == 0 {
		return text
	}
	return text + "\n" + words.String()
}

func isWellKnown(m protoreflect.MessageDescriptor) bool {
	return m.ParentFile().Package() == "google.protobuf"
}
