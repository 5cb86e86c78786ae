package console

import (
	"io"
	"slices"
	"sync"
)

// Viewer is one reader of a console, who may also type. One goroutine may read
// while another writes; Close, from any, ends both.
type Viewer struct {
	console *Console

	mu      sync.Mutex
	more    sync.Cond // pending or err changed
	pending []byte
	err     error
}

var _ io.ReadWriteCloser = (*Viewer)(nil)

func newViewer(c *Console, history []byte) *Viewer {
	v := &Viewer{console: c, pending: slices.Clone(history)}
	v.more.L = &v.mu
	return v
}

// Read gives the last output first, then output as it comes. It ends with
// io.EOF after Close, here or of the console, and with ErrSlow if the viewer
// fell behind.
func (v *Viewer) Read(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.pending) == 0 && v.err == nil {
		v.more.Wait()
	}
	if len(v.pending) == 0 {
		return 0, v.err
	}
	n := copy(p, v.pending)
	v.pending = v.pending[n:]
	return n, nil
}

// Write types into the guest. It blocks for two seconds at most, and never
// loses the viewer: ErrInputBlocked and ErrDisconnected may be ignored.
func (v *Viewer) Write(p []byte) (int, error) {
	v.mu.Lock()
	err := v.err
	v.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return v.console.write(p)
}

// Close leaves the console. It may be repeated.
func (v *Viewer) Close() error {
	v.console.remove(v)
	v.end(io.EOF)
	return nil
}

// offer adds output, and reports false if the viewer is cut instead.
func (v *Viewer) offer(output []byte) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.pending)+len(output) > viewerBuffer {
		v.err = ErrSlow
	} else {
		v.pending = append(v.pending, output...)
	}
	v.more.Broadcast()
	return v.err == nil
}

func (v *Viewer) end(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err == nil {
		v.err = err
	}
	v.more.Broadcast()
}
