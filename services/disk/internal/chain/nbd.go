package chain

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// What is spoken of NBD, by its doc/proto.md: the fixed newstyle handshake with
// NBD_OPT_GO, and reads with simple replies.
const (
	nbdMagic        = 0x4e42444d41474943 // "NBDMAGIC"
	nbdOption       = 0x49484156454f5054 // "IHAVEOPT"
	nbdOptionReply  = 0x3e889045565a9
	nbdFixed        = 1
	nbdNoZeroes     = 2
	nbdGo           = 7
	nbdAcknowledged = 1
	nbdInfo         = 3
	nbdInfoExport   = 0
	nbdRequest      = 0x25609513
	nbdReply        = 0x67446698
	nbdMaxRead      = 4 << 20
	nbdMaxAnswer    = 64 << 10
)

// ErrProtocol is an answer that is no NBD.
var ErrProtocol = errors.New("not the NBD that was expected")

// connection reads from an NBD server, one request at a time.
type connection struct {
	socket net.Conn
	bytes  int64
	cookie uint64
	broken error // a connection that failed once is out of step
}

// negotiate opens an export.
func negotiate(socket net.Conn, export string) (*connection, error) {
	greeting := make([]byte, 18)
	if _, err := io.ReadFull(socket, greeting); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	if be.Uint64(greeting) != nbdMagic || be.Uint64(greeting[8:]) != nbdOption || be.Uint16(greeting[16:])&nbdFixed == 0 {
		return nil, ErrProtocol
	}
	hello := be.AppendUint32(nil, nbdFixed|nbdNoZeroes)
	hello = be.AppendUint64(hello, nbdOption)
	hello = be.AppendUint32(hello, nbdGo)
	hello = be.AppendUint32(hello, uint32(4+len(export)+2))
	hello = be.AppendUint32(hello, uint32(len(export)))
	hello = append(hello, export...)
	hello = be.AppendUint16(hello, 0) // no information besides what is always told
	if _, err := socket.Write(hello); err != nil {
		return nil, err
	}
	c := &connection{socket: socket}
	for {
		done, err := c.option()
		if err != nil || done {
			return c, err
		}
	}
}

// option reads one answer to the option, and reports whether it was the last.
func (c *connection) option() (bool, error) {
	be := binary.BigEndian
	answer := make([]byte, 20)
	if _, err := io.ReadFull(c.socket, answer); err != nil {
		return false, err
	}
	kind, size := be.Uint32(answer[12:]), be.Uint32(answer[16:])
	if be.Uint64(answer) != nbdOptionReply || size > nbdMaxAnswer {
		return false, ErrProtocol
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(c.socket, data); err != nil {
		return false, err
	}
	switch {
	case kind == nbdAcknowledged:
		return true, nil
	case kind != nbdInfo:
		return false, fmt.Errorf("%w: the server answers %#x", ErrProtocol, kind)
	case len(data) >= 10 && be.Uint16(data) == nbdInfoExport:
		c.bytes = int64(be.Uint64(data[2:]))
	}
	return false, nil
}

// readAt reads as io.ReaderAt does.
func (c *connection) readAt(b []byte, offset int64) (int, error) {
	if c.broken != nil {
		return 0, c.broken
	}
	if offset < 0 {
		return 0, fmt.Errorf("chain: read at %d", offset)
	}
	whole := b
	b = b[:min(int64(len(b)), max(0, c.bytes-offset))]
	done := 0
	for done < len(b) {
		n := min(len(b)-done, nbdMaxRead)
		if err := c.read(b[done:done+n], offset+int64(done)); err != nil {
			c.broken = err
			return done, err
		}
		done += n
	}
	if len(b) < len(whole) {
		return done, io.EOF
	}
	return done, nil
}

func (c *connection) read(b []byte, offset int64) error {
	be := binary.BigEndian
	c.cookie++
	request := be.AppendUint32(nil, nbdRequest)
	request = be.AppendUint32(request, 0) // no flags; type 0 is a read
	request = be.AppendUint64(request, c.cookie)
	request = be.AppendUint64(request, uint64(offset))
	request = be.AppendUint32(request, uint32(len(b)))
	if _, err := c.socket.Write(request); err != nil {
		return err
	}
	reply := make([]byte, 16)
	if _, err := io.ReadFull(c.socket, reply); err != nil {
		return err
	}
	if be.Uint32(reply) != nbdReply || be.Uint64(reply[8:]) != c.cookie {
		return ErrProtocol
	}
	if code := be.Uint32(reply[4:]); code != 0 {
		return fmt.Errorf("the disk can't be read at %d: NBD error %d", offset, code)
	}
	_, err := io.ReadFull(c.socket, b)
	return err
}
