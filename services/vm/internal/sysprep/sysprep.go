// Package sysprep writes the CD-ROM on which Windows Setup and Sysprep look for
// their answers (Microsoft, "Windows Setup Automation Overview": the root of
// removable read-only media).
//
// It owns the volume. It must not know machines or Secrets. Answer files hold
// passwords, so nothing of one ever goes into an error.
package sysprep

import (
	"orlop.dev/kit/durable"
	"orlop.dev/services/vm/internal/iso9660"
)

// label is what a person sees in the guest.
const label = "unattend"

// Answers are the answer files of one guest; an empty one is left out.
type Answers struct {
	// Unattend is for the passes after installation, Autounattend for Windows
	// Setup's own.
	Unattend, Autounattend []byte
}

// Write puts the volume at path, readable by the owner only, replacing what was
// there in one step. Repeating it is harmless.
func Write(path string, a Answers) error {
	var files []iso9660.File
	for _, file := range []iso9660.File{
		{Name: "Autounattend.xml", Content: a.Autounattend}, {Name: "Unattend.xml", Content: a.Unattend},
	} {
		if len(file.Content) > 0 {
			files = append(files, file)
		}
	}
	volume, err := iso9660.Image(label, files)
	if err != nil {
		return err
	}
	return durable.WriteFile(path, volume, 0o600)
}
