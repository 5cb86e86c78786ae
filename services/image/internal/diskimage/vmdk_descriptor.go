package diskimage

import (
	"bufio"
	"bytes"
	"strings"

	"orlop.dev/services/image/internal/failure"
)

// descriptor is what matters of the text inside a vmdk.
type descriptor struct {
	createType string
	parentCID  string
	parentHint bool
	extents    []string
}

// checkDescriptor refuses every layout but one sparse extent: this file.
func (h *vmdk) checkDescriptor(f *file) error {
	length := h.descriptorLength * sectorBytes
	if h.descriptorOffset == 0 || h.descriptorLength == 0 {
		return failure.Terminalf(ReasonUnsupportedFormat, "the vmdk is one extent of several: it has no descriptor")
	}
	if h.descriptorLength > vmdkMaxDescriptor/sectorBytes || h.descriptorOffset > f.size/sectorBytes {
		return failure.Terminalf(ReasonTruncated, "the vmdk's descriptor lies past the end of the file")
	}
	b, err := f.read("vmdk descriptor", h.descriptorOffset*sectorBytes, length)
	if err != nil {
		return err
	}
	d := parseDescriptor(b)
	switch {
	case d.parentHint || (d.parentCID != "" && d.parentCID != "ffffffff"):
		return failure.Terminalf(ReasonBackingFile, "the vmdk needs a parent; flatten it first (qemu-img convert)")
	case d.createType != "monolithicsparse" && d.createType != "streamoptimized":
		return failure.Terminalf(ReasonUnsupportedFormat,
			"the vmdk is of type %q; monolithicSparse and streamOptimized are supported", d.createType)
	case len(d.extents) != 1 || !isSparseExtent(d.extents[0]):
		return failure.Terminalf(ReasonExternalExtent, "the vmdk keeps its data in other files")
	}
	return nil
}

// parseDescriptor reads "key = value" and extent lines; keys and values are
// lower-cased, as VMware compares them without case.
func parseDescriptor(b []byte) descriptor {
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	var d descriptor
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, vmdkMaxDescriptor)
	for lines.Scan() {
		line := strings.ToLower(strings.TrimSpace(lines.Text()))
		if isExtentLine(line) {
			d.extents = append(d.extents, line)
			continue
		}
		key, value, found := strings.Cut(line, "=")
		if !found {
			continue
		}
		value = strings.Trim(strings.TrimSpace(value), `"`)
		switch strings.TrimSpace(key) {
		case "createtype":
			d.createType = value
		case "parentcid":
			d.parentCID = value
		case "parentfilenamehint":
			d.parentHint = true
		}
	}
	return d
}

func isExtentLine(line string) bool {
	access, _, _ := strings.Cut(line, " ")
	return access == "rw" || access == "rdonly" || access == "noaccess"
}

// isSparseExtent takes `rw 8192 sparse "name.vmdk"`. The name doesn't matter:
// the header is in front of us.
func isSparseExtent(line string) bool {
	fields := strings.Fields(line)
	return len(fields) >= 4 && fields[2] == "sparse"
}
