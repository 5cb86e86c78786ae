package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
)

const (
	modelBytes = 4 * mib
	modelBlock = 64 << 10
)

// model is what each volume should show, and who uses it just now.
type model struct {
	store *Store
	dir   string

	mu      sync.Mutex
	volumes map[string][]byte
	held    map[string]bool
}

// hold is what a VM's claim does.
func (m *model) hold(ctx context.Context, id string) error {
	m.mu.Lock()
	m.held[id] = true
	m.mu.Unlock()
	return m.store.Interrupt(ctx, id)
}

func (m *model) release(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[id] = false
}

func (m *model) idle(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.held[id]
}

func (m *model) content(id string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, found := m.volumes[id]
	return bytes.Clone(text), found
}

func (m *model) set(id string, content []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if content == nil {
		delete(m.volumes, id)
	} else {
		m.volumes[id] = content
	}
}

// guest writes blocks as a VM does.
func (m *model) guest(ctx context.Context, r *rand.Rand, id string) error {
	if err := m.hold(ctx, id); err != nil {
		return err
	}
	defer m.release(id)
	volume, found, err := m.store.Lookup(ctx, id)
	if err != nil || !found {
		return errors.Join(err, fmt.Errorf("volume %s is not there", id))
	}
	content, _ := m.content(id)
	args := []string{"-f", "qcow2"}
	for range 3 {
		at, pattern := r.IntN(modelBytes/modelBlock)*modelBlock, byte(r.IntN(3))
		args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", pattern, at, modelBlock))
		copy(content[at:], bytes.Repeat([]byte{pattern}, modelBlock))
	}
	if text, err := exec.CommandContext(ctx, "qemu-io", append(args, volume.Path)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	m.set(id, content)
	return nil
}

// verify reads a volume by the names in its files.
func (m *model) verify(ctx context.Context, id string) error {
	if err := m.hold(ctx, id); err != nil {
		return err
	}
	defer m.release(id)
	volume, _, err := m.store.Lookup(ctx, id)
	if err != nil {
		return err
	}
	raw := filepath.Join(m.dir, id+".raw")
	if text, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", volume.Path, raw).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	got, err := os.ReadFile(raw)
	if want, _ := m.content(id); err != nil || !bytes.Equal(got, want) {
		return errors.Join(err, fmt.Errorf("volume %s has another content", id))
	}
	return nil
}

// owner does things at random to volumes of its own.
func (m *model) owner(ctx context.Context, seed uint64, steps int) error {
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range steps {
		id, other := fmt.Sprintf("%d-%d", seed, r.IntN(3)), fmt.Sprintf("%d-%d", seed, r.IntN(3))
		if err := m.step(ctx, r, id, other); err != nil {
			return fmt.Errorf("owner %d, step %d: %w", seed, i, err)
		}
	}
	return nil
}

func (m *model) step(ctx context.Context, r *rand.Rand, id, other string) error {
	content, found := m.content(id)
	_, taken := m.content(other)
	switch kind := r.IntN(10); {
	case !found:
		m.set(id, make([]byte, modelBytes))
		return m.store.Make(ctx, id, nil, modelBytes)
	case kind < 4:
		return m.guest(ctx, r, id)
	case kind < 6 && !taken:
		if err := m.store.Copy(ctx, other, id, modelBytes); err != nil {
			return err
		}
		m.set(other, content)
	case kind < 8:
		return m.store.Freeze(ctx, Freezing{Volume: id, Layer: fmt.Sprintf("%s-%d", id, r.Uint64())})
	case kind == 8:
		m.set(id, nil)
		return m.store.Remove(ctx, id)
	default:
		return m.verify(ctx, id)
	}
	return nil
}

// flatten looks after depth until ctx ends.
func (m *model) flatten(ctx context.Context) (int, error) {
	count := 0
	for ctx.Err() == nil {
		deep, err := m.store.Deep(ctx, 2)
		if err != nil {
			return count, err
		}
		for _, id := range deep {
			done, err := m.store.Flatten(ctx, id, 2, func() bool { return m.idle(id) })
			if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrBusy) {
				return count, err
			}
			if done {
				count++
			}
		}
	}
	return count, nil
}

func TestConcurrentStepsKeepEveryContent(t *testing.T) {
	store, dir := newStore(t)
	m := &model{store: store, dir: t.TempDir(), volumes: map[string][]byte{}, held: map[string]bool{}}
	ctx, stop := context.WithCancel(t.Context())
	flattened, flattening := 0, make(chan error, 1)
	go func() {
		var err error
		flattened, err = m.flatten(ctx)
		flattening <- err
	}()
	steps := 60
	if testing.Short() {
		steps = 15
	}
	owners := new(errgroup.Group)
	for seed := range uint64(3) {
		owners.Go(func() error { return m.owner(t.Context(), seed, steps) })
	}
	if err := owners.Wait(); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-flattening; err != nil {
		t.Error(err)
	}
	t.Logf("%d volumes were flattened on the way", flattened)
	keeper := Keeper{Store: store, Depth: 2, Idle: m.idle, Logger: store.logger}
	keeper.Pass(t.Context())
	if deep, err := store.Deep(t.Context(), 2); err != nil || len(deep) > 0 {
		t.Errorf("%v stay deep, %v", deep, err)
	}
	for id := range m.volumes {
		if err := m.verify(t.Context(), id); err != nil {
			t.Error(err)
		}
		must(t, store.Remove(t.Context(), id))
	}
	wantNothing(t, dir)
}
