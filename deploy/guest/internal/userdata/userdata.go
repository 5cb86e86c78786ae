// Package userdata reads what a user hands to a cloud image: cloud-config,
// scripts, or several of them in one MIME message. It owns the syntax and the
// defaults of the subset that the micro guest honours; it must not know how any
// of it is applied.
//
// The vocabulary is that of cloud-init's modules (users, set_passwords, ssh,
// write_files, runcmd, bootcmd, set_hostname).
package userdata

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxBytes bounds what compressed user data may grow to: far above what a
// hypervisor hands over, far below a small guest's memory.
const maxBytes = 16 << 20

// ErrUnknownFormat says that the first line names no format that is read here.
var ErrUnknownFormat = errors.New("user data begins with neither #cloud-config nor #! nor a MIME header")

// Data is everything that the user data asked for.
type Data struct {
	Config Config
	// Scripts run once an instance, in order, after RunCommands.
	Scripts [][]byte
	// Ignored names the keys and parts that nothing here honours.
	Ignored []string
}

// Parse reads user data in any accepted format. Empty input is valid and asks
// for nothing.
func Parse(raw []byte) (Data, error) {
	var data Data
	if err := data.add(raw); err != nil {
		return Data{}, err
	}
	return data, nil
}

func (d *Data) add(raw []byte) error {
	raw, err := inflate(raw)
	if err != nil {
		return err
	}
	switch {
	case len(bytes.TrimSpace(raw)) == 0:
		return nil
	case bytes.HasPrefix(raw, []byte("#!")):
		d.Scripts = append(d.Scripts, raw)
		return nil
	case bytes.HasPrefix(raw, []byte("#cloud-config")):
		return d.addConfig(raw)
	case isMIME(raw):
		return d.addMIME(raw)
	default:
		return ErrUnknownFormat
	}
}

func inflate(raw []byte) ([]byte, error) {
	if !bytes.HasPrefix(raw, []byte{0x1f, 0x8b}) {
		return raw, nil
	}
	reader, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("compressed user data: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(reader, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("compressed user data: %w", err)
	}
	if len(plain) > maxBytes {
		return nil, fmt.Errorf("compressed user data is larger than %d bytes", maxBytes)
	}
	return plain, nil
}

// addConfig decodes over what is there, so that of two parts the later one
// wins, key by key, as with cloud-init.
func (d *Data) addConfig(raw []byte) error {
	var keys map[string]yaml.Node
	if err := yaml.Unmarshal(raw, &keys); err != nil {
		return fmt.Errorf("cloud-config: %w", err)
	}
	for key := range keys {
		if !honoured(key) {
			d.Ignored = append(d.Ignored, key)
		}
	}
	slices.Sort(d.Ignored)
	if err := yaml.Unmarshal(raw, &d.Config); err != nil {
		return fmt.Errorf("cloud-config: %w", err)
	}
	return nil
}

func isMIME(raw []byte) bool {
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	name, _, found := strings.Cut(strings.ToLower(string(line)), ":")
	return found && (name == "content-type" || name == "mime-version")
}

func (d *Data) addMIME(raw []byte) error {
	message, err := mail.ReadMessage(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil {
		return fmt.Errorf("MIME user data: %w", err)
	}
	kind, params, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		return fmt.Errorf("MIME user data: the message is not multipart (%s)", kind)
	}
	parts := multipart.NewReader(message.Body, params["boundary"])
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("MIME user data: %w", err)
		}
		if err := d.addPart(part); err != nil {
			return err
		}
	}
}

// addPart goes by the declared type, because a part may leave the first-line
// marker out.
func (d *Data) addPart(part *multipart.Part) error {
	body, err := io.ReadAll(io.LimitReader(part, maxBytes))
	if err != nil {
		return fmt.Errorf("MIME user data: %w", err)
	}
	if strings.EqualFold(part.Header.Get("Content-Transfer-Encoding"), "base64") {
		if body, err = decodeBase64(body); err != nil {
			return fmt.Errorf("MIME user data: %w", err)
		}
	}
	kind, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type"))
	switch kind {
	case "text/cloud-config":
		return d.addConfig(body)
	case "text/x-shellscript", "text/plain", "":
		return d.add(body)
	default:
		d.Ignored = append(d.Ignored, kind)
		return nil
	}
}
