package layer

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// imageTool runs qemu-img, always with explicit formats. It only ever reads
// files that were parsed when they were imported, or that it wrote itself.
type imageTool struct{ binary string }

// create makes a qcow2 file as r says; base is its backing file's path, from
// the new file's folder.
func (t imageTool) create(ctx context.Context, path string, r record, base string) error {
	args := []string{"create", "-q", "-f", Format, "-o", "lazy_refcounts=off"}
	if r.Base != "" {
		args = append(args, "-b", base, "-F", r.BaseFormat)
	}
	return t.run(ctx, append(args, path, strconv.FormatInt(r.VirtualBytes, 10))...)
}

func (t imageTool) resize(ctx context.Context, path string, virtualBytes int64) error {
	return t.run(ctx, "resize", "-q", "-f", Format, path, strconv.FormatInt(virtualBytes, 10))
}

func (t imageTool) run(ctx context.Context, args ...string) error {
	output, err := exec.CommandContext(ctx, t.binary, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img %s: %w: %s", args[0], err, strings.TrimSpace(string(output)))
	}
	return nil
}
