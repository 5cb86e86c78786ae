package chain

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"

	"orlop.dev/services/disk/internal/jail"
)

// Reader reads a disk. It may be used concurrently, one request at a time.
type Reader struct {
	server *jail.Process
	cancel context.CancelFunc
	close  func() bool

	mu   sync.Mutex
	conn *connection
}

// Open starts to read a chain. It ends with Close or with ctx.
func Open(ctx context.Context, c Chain, p Priority) (*Reader, error) {
	spec, err := c.describe(nodeName)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &Reader{cancel: cancel}
	socket, err := r.serve(ctx, spec, p)
	if err == nil {
		// A read that is under way ends with ctx, too.
		r.close = context.AfterFunc(ctx, func() { _ = socket.Close() })
		r.conn, err = negotiate(socket, nodeName)
	}
	if err != nil {
		return nil, r.explain(err)
	}
	return r, nil
}

const nodeName = "disk"

// serve starts the server on a socket of ours: a connection waits in it until
// the server is ready, or dies with it.
func (r *Reader) serve(ctx context.Context, spec json.RawMessage, p Priority) (net.Conn, error) {
	dir, err := os.MkdirTemp("", "orlop-nbd-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	inherited, err := listener.File()
	if err != nil {
		return nil, err
	}
	defer inherited.Close()
	r.server, err = jail.Start(ctx, jail.Options{Idle: p == Idle, Inherited: inherited}, "qemu-storage-daemon",
		"--blockdev", string(spec),
		"--nbd-server", "addr.type=fd,addr.str=3,max-connections=1",
		"--export", "type=nbd,id=e,node-name="+nodeName+",name="+nodeName+",writable=off")
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

// explain ends a reader that failed, and says what its server said.
func (r *Reader) explain(err error) error {
	r.cancel()
	if r.close != nil {
		r.close()
	}
	if r.server == nil {
		return err
	}
	return errors.Join(err, r.server.Wait())
}

// Bytes is the size of the disk.
func (r *Reader) Bytes() int64 { return r.conn.bytes }

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(b []byte, offset int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conn.readAt(b, offset)
}

// Close ends the reading, and returns when no process is left.
func (r *Reader) Close() error {
	r.cancel()
	if r.close() {
		_ = r.conn.socket.Close()
	}
	// It was told to end: how it did is no news.
	_ = r.server.Wait()
	return nil
}
