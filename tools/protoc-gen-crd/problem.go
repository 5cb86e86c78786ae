package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// problems collects what is wrong with the protos.
type problems struct {
	lines []string
}

// add notes a problem with d, once: a message is seen as often as it is used.
func (p *problems) add(d protoreflect.Descriptor, format string, args ...any) {
	at := d.ParentFile().SourceLocations().ByDescriptor(d)
	line := fmt.Sprintf("%s:%d: %s: %s",
		d.ParentFile().Path(), at.StartLine+1, d.FullName(), fmt.Sprintf(format, args...))
	if !slices.Contains(p.lines, line) {
		p.lines = append(p.lines, line)
	}
}

func (p *problems) count() int { return len(p.lines) }

// err returns all problems, one line each, or nil if there are none.
func (p *problems) err() error {
	if len(p.lines) == 0 {
		return nil
	}
	return errors.New(strings.Join(p.lines, "\n"))
}
