package userdata

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Switch is a boolean that may be left out, or left as the image has it.
type Switch struct{ value *bool }

// Or gives the value, or what the image does when none was given.
func (s Switch) Or(otherwise bool) bool {
	if s.value == nil {
		return otherwise
	}
	return *s.value
}

// Given says whether there was a value.
func (s Switch) Given() bool { return s.value != nil }

// UnmarshalYAML reads YAML 1.1 and 1.2 booleans, quoted or not, and "unchanged".
func (s *Switch) UnmarshalYAML(node *yaml.Node) error {
	word := strings.ToLower(node.Value)
	switch word {
	case "unchanged", "null", "~", "":
		s.value = nil
	case "true", "yes", "on", "1":
		s.value = new(true)
	case "false", "no", "off", "0":
		s.value = new(false)
	default:
		return fmt.Errorf("line %d: %q is not a boolean", node.Line, node.Value)
	}
	return nil
}

// List is a list of words that may be written as one comma-separated string.
// false and null are the empty list.
type List []string

// UnmarshalYAML reads either spelling. A string that holds a sudo rule has
// commas that separate nothing, so rules are kept whole.
func (l *List) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.SequenceNode {
		return node.Decode((*[]string)(l))
	}
	*l = nil
	if node.Tag == "!!bool" || node.Tag == "!!null" {
		return nil
	}
	if strings.ContainsAny(node.Value, "=(") {
		*l = List{node.Value}
		return nil
	}
	for word := range strings.SplitSeq(node.Value, ",") {
		if word = strings.TrimSpace(word); word != "" {
			*l = append(*l, word)
		}
	}
	return nil
}

// Lines is a list of lines that may be written as one block of text.
type Lines []string

// UnmarshalYAML reads either spelling.
func (l *Lines) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.SequenceNode {
		return node.Decode((*[]string)(l))
	}
	*l = nil
	for line := range strings.Lines(node.Value) {
		if line = strings.TrimSpace(line); line != "" {
			*l = append(*l, line)
		}
	}
	return nil
}

// Command is an argument vector. A plain string becomes a shell's.
type Command []string

// UnmarshalYAML reads a string for the shell, or a list that needs none.
func (c *Command) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.SequenceNode {
		return node.Decode((*[]string)(c))
	}
	*c = Command{"/bin/sh", "-c", node.Value}
	return nil
}

// File is one item of write_files.
type File struct {
	Path    string `yaml:"path"`
	Content string `yaml:"content"`
	// Encoding is empty, or any of cloud-init's names for base64, gzip, and
	// gzip in base64.
	Encoding string `yaml:"encoding"`
	// Owner is "user:group"; empty means root:root.
	Owner  string `yaml:"owner"`
	Mode   Mode   `yaml:"permissions"`
	Append bool   `yaml:"append"`
}

// Bytes gives the decoded content.
func (f File) Bytes() ([]byte, error) {
	content := []byte(f.Content)
	var err error
	switch strings.ToLower(f.Encoding) {
	case "", "text/plain":
		return content, nil
	case "b64", "base64":
		return decodeBase64(content)
	case "gz", "gzip", "!!binary":
		return inflate(content)
	case "gz+b64", "gz+base64", "gzip+b64", "gzip+base64":
		if content, err = decodeBase64(content); err != nil {
			return nil, err
		}
		return inflate(content)
	default:
		return nil, fmt.Errorf("encoding %s is not supported", f.Encoding)
	}
}

func decodeBase64(text []byte) ([]byte, error) {
	return base64.StdEncoding.DecodeString(string(bytes.Join(bytes.Fields(text), nil)))
}

// Mode is a file's permission bits, setuid and its kin included; 0644 when
// none were given.
type Mode struct{ bits *uint32 }

// UnmarshalYAML reads octal digits, quoted or not. YAML would read a bare 644
// as decimal, which is never what was meant.
func (m *Mode) UnmarshalYAML(node *yaml.Node) error {
	digits := strings.TrimPrefix(strings.ToLower(node.Value), "0o")
	bits, err := strconv.ParseUint(digits, 8, 12)
	if err != nil {
		return fmt.Errorf("line %d: permissions %q are not octal", node.Line, node.Value)
	}
	m.bits = new(uint32(bits))
	return nil
}

// FileMode gives the bits as Go spells them.
func (m Mode) FileMode() fs.FileMode {
	if m.bits == nil {
		return 0o644
	}
	mode := fs.FileMode(*m.bits & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if *m.bits&bit != 0 {
			mode |= flag
		}
	}
	return mode
}
