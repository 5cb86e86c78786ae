package chain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"orlop.dev/services/disk/internal/jail"
	"orlop.dev/services/disk/internal/qcow2"
)

// extent is what `qemu-img map` prints.
type extent struct {
	Start   int64 `json:"start"`
	Length  int64 `json:"length"`
	Depth   int   `json:"depth"`
	Present bool  `json:"present"`
	Zero    bool  `json:"zero"`
	Data    bool  `json:"data"`
}

// Allocated returns the clusters with data in the whole chain, and the size of
// the disk.
func (c Chain) Allocated(ctx context.Context, p Priority) ([]qcow2.Run, int64, error) {
	return c.runs(ctx, p, func(e extent) (has, zero bool) { return e.Data && !e.Zero, false })
}

// Above returns the clusters that the first files of the chain have, those that
// only read as zeros among them, and the size of the disk. All of these files
// have clusters of qcow2.ClusterBytes.
func (c Chain) Above(ctx context.Context, p Priority, first int) ([]qcow2.Run, int64, error) {
	return c.runs(ctx, p, func(e extent) (has, zero bool) {
		// What is nowhere present reads as zeros from below too.
		return e.Depth < first && (e.Present || e.Data), e.Zero
	})
}

func (c Chain) runs(ctx context.Context, p Priority, take func(extent) (has, zero bool)) ([]qcow2.Run, int64, error) {
	spec, err := c.describe("")
	if err != nil {
		return nil, 0, err
	}
	tool, err := jail.Start(ctx, jail.Options{Idle: p == Idle}, "qemu-img", "map", "--output=json", "json:"+string(spec))
	if err != nil {
		return nil, 0, err
	}
	runs, size, err := collect(tool.Out, take)
	if ended := tool.Wait(); ended != nil {
		return nil, 0, ended
	}
	return runs, size, err
}

// collect reads extents as they come: there can be millions.
func collect(r io.Reader, take func(extent) (has, zero bool)) ([]qcow2.Run, int64, error) {
	decoder := json.NewDecoder(r)
	if _, err := decoder.Token(); err != nil {
		return nil, 0, fmt.Errorf("map: %w", err)
	}
	var runs []qcow2.Run
	var size int64
	for decoder.More() {
		var e extent
		if err := decoder.Decode(&e); err != nil {
			return nil, 0, fmt.Errorf("map: %w", err)
		}
		if e.Start != size || e.Length <= 0 {
			return nil, 0, errors.New("map: the extents have gaps")
		}
		size += e.Length
		if has, zero := take(e); has {
			runs = add(runs, e, zero)
		}
	}
	return runs, size, nil
}

// add appends an extent to runs of whole clusters. A cluster that is partly data
// is data.
func add(runs []qcow2.Run, e extent, zero bool) []qcow2.Run {
	first := e.Start / qcow2.ClusterBytes
	end := (e.Start + e.Length + qcow2.ClusterBytes - 1) / qcow2.ClusterBytes
	if len(runs) > 0 {
		last := &runs[len(runs)-1]
		lastEnd := last.First + last.Count
		if first < lastEnd && last.Zero && !zero {
			// They share a cluster, and data wins.
			if last.Count--; last.Count == 0 {
				runs = runs[:len(runs)-1]
			}
		} else {
			first = max(first, lastEnd)
		}
	}
	if first >= end {
		return runs
	}
	if n := len(runs) - 1; n >= 0 && runs[n].Zero == zero && runs[n].First+runs[n].Count == first {
		runs[n].Count += end - first
		return runs
	}
	return append(runs, qcow2.Run{First: first, Count: end - first, Zero: zero})
}
