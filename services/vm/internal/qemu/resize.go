package qemu

import (
	"context"
	"fmt"
)

// blockSize is a part of QMP's BlockDeviceInfo.
type blockSize struct {
	NodeName string `json:"node-name"`
	Image    struct {
		VirtualSize int64 `json:"virtual-size"`
	} `json:"image"`
}

// Grow makes a disk of a running machine larger, in bytes (QMP block_resize).
// The guest is told at once. Idempotent; a disk that is as large already is left
// as it is, and none is ever made smaller. ErrInvalid if the machine has no disk
// of that ID.
func (p *Process) Grow(ctx context.Context, disk string, virtualBytes int64) error {
	var nodes []blockSize
	if err := p.executeWith(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &nodes); err != nil {
		return err
	}
	for _, node := range nodes {
		if node.NodeName != disk {
			continue
		}
		if node.Image.VirtualSize >= virtualBytes {
			return nil
		}
		return p.executeWith(ctx, "block_resize", map[string]any{"node-name": disk, "size": virtualBytes}, nil)
	}
	return fmt.Errorf("%w: no disk %q", ErrInvalid, disk)
}
