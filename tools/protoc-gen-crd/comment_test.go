package main

import (
	"testing"

	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
)

func TestDescriptionReadsLikeText(t *testing.T) {
	for name, test := range map[string]struct{ comment, want string }{
		"none":              {"", ""},
		"lines are joined":  {"// One\n  // two.", "One two."},
		"paragraphs stay":   {"// One.\n  //\n  // Two.", "One.\n\nTwo."},
		"items stay":        {"// List:\n  // - a\n  // - b\n  //   goes on", "List:\n- a\n- b goes on"},
		"no linter's words": {"// One.\n  // buf:lint:ignore ENUM_VALUE_PREFIX", "One."},
	} {
		t.Run(name, func(t *testing.T) {
			const file = "comment.proto"
			source := "syntax = \"proto3\";\nmessage M {\n  " + test.comment + "\n  string s = 1;\n}\n"
			files, err := protodesc.NewFiles(compile(t, map[string]string{file: source}, file))
			if err != nil {
				t.Fatal(err)
			}
			m, err := files.FindDescriptorByName("M")
			if err != nil {
				t.Fatal(err)
			}
			if got := description(m.(protoreflect.MessageDescriptor).Fields().Get(0)); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
