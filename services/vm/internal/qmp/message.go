package qmp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Version is QEMU's own, as in its greeting.
type Version struct {
	Major int `json:"major"`
	Minor int `json:"minor"`
	Micro int `json:"micro"`
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// Event is what QEMU says unasked. Data is the event's own JSON object, nil
// when it has none; the names and members are those of QEMU's QMP reference.
type Event struct {
	Name string
	Time time.Time
	Data json.RawMessage
}

// Error is a command that QEMU refused.
type Error struct {
	Command string
	Class   string // "GenericError", "CommandNotFound", "DeviceNotFound", ...
	Desc    string // for people
}

func (e *Error) Error() string { return fmt.Sprintf("qmp: %s: %s (%s)", e.Command, e.Desc, e.Class) }

// ProtocolError is a peer that doesn't speak QMP.
type ProtocolError struct {
	Reason string
	Line   string // the beginning of the offending line, for the log
}

func (e *ProtocolError) Error() string { return fmt.Sprintf("qmp: %s: %q", e.Reason, e.Line) }

var (
	// ErrClosed is a connection that either side closed.
	ErrClosed = errors.New("qmp: connection closed")
	// ErrOverrun is a connection given up because nobody read its events.
	ErrOverrun = errors.New("qmp: events were not read in time")
)

type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        string `json:"id"`
}

type greeting struct {
	QMP *struct {
		Version struct {
			QEMU Version `json:"qemu"`
		} `json:"version"`
	} `json:"QMP"`
}

type message struct {
	ID     string          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

func (m message) event() Event {
	at := time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*int64(time.Microsecond))
	return Event{Name: m.Event, Time: at.UTC(), Data: m.Data}
}

func (m message) decode(command string, result any) error {
	if m.Error != nil {
		return &Error{Command: command, Class: m.Error.Class, Desc: m.Error.Desc}
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("qmp: reply to %s: %w", command, err)
	}
	return nil
}

// lineReader gives one message at a time, none longer than maxLine.
type lineReader struct{ r *bufio.Reader }

func newLineReader(r io.Reader) *lineReader { return &lineReader{bufio.NewReaderSize(r, 32<<10)} }

func (l *lineReader) next() ([]byte, error) {
	var line []byte
	for {
		part, err := l.r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, &ProtocolError{Reason: "message longer than 4 MiB", Line: excerpt(line)}
		}
		line = append(line, part...)
		if err == nil {
			return line, nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
}

func readGreeting(lines *lineReader) (greeting, error) {
	line, err := lines.next()
	if errors.Is(err, io.EOF) {
		err = ErrClosed
	}
	if err != nil {
		return greeting{}, fmt.Errorf("qmp: no greeting: %w", err)
	}
	var g greeting
	if json.Unmarshal(line, &g) != nil || g.QMP == nil {
		return greeting{}, &ProtocolError{Reason: "not a greeting", Line: excerpt(line)}
	}
	return g, nil
}

func excerpt(line []byte) string { return string(line[:min(len(line), 80)]) }
