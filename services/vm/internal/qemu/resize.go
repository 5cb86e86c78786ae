package qemu

import (
	"context"
	"fmt"
)

// blockSize is a part of QMP's BlockDeviceInfo.
type blockSize struct {
	NodeName string `json:"node-name"`
	File     string `json:"file"`
	Image    struct {
		VirtualSize int64 `json:"virtual-size"`
	} `json:"image"`
}

// Grow makes a disk of a running machine larger, in bytes (QMP block_resize).
// The guest is told at once. Idempotent; a disk that is as large already is left
// as it is, and none is ever made smaller. ErrInvalid if the machine has no disk
// of that ID.
func (p *Process) Grow(ctx context.Context, disk string, virtualBytes int64) error {
	if err := p.endStreams(ctx); err != nil {
		return err
	}
	tops, _, err := p.tops(ctx)
	if err != nil {
		return err
	}
	t, found := tops[disk]
	if !found {
		return fmt.Errorf("%w: no disk %q", ErrInvalid, disk)
	}
	if t.size >= virtualBytes {
		return nil
	}
	return p.executeWith(ctx, "block_resize", map[string]any{"node-name": t.node, "size": virtualBytes}, nil)
}
