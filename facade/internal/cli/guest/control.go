package guest

import (
	"encoding/json"
	"fmt"
	"net"
)

// control is a connection to QEMU's control socket (QMP).
type control struct {
	net.Conn
	answers *json.Decoder
}

// message is what QEMU says, as far as it is of use here.
type message struct {
	QMP    json.RawMessage `json:"QMP"`
	Event  string          `json:"event"`
	Error  json.RawMessage `json:"error"`
	Return *struct {
		Status string `json:"status"`
	} `json:"return"`
}

// is tells of which sort the message is.
func (m message) is(sort string) bool {
	switch sort {
	case "QMP":
		return m.QMP != nil
	case "event":
		return m.Event != ""
	default:
		return m.Return != nil
	}
}

// refusalError is QEMU's answer to a command that it doesn't take.
type refusalError struct{ answer string }

func (e *refusalError) Error() string { return "QEMU answered " + e.answer }

// execute sends a command and returns the answer. Events before it are dropped.
func (c *control) execute(command string) (message, error) {
	if _, err := fmt.Fprintf(c, `{"execute":%q}`, command); err != nil {
		return message{}, err
	}
	m, err := c.await("return")
	if err != nil {
		return m, fmt.Errorf("%s: %w", command, err)
	}
	return m, nil
}

// await reads up to a message of that sort.
func (c *control) await(sort string) (message, error) {
	for {
		var m message
		if err := c.answers.Decode(&m); err != nil {
			return m, err
		}
		if m.Error != nil {
			return m, &refusalError{string(m.Error)}
		}
		if m.is(sort) {
			return m, nil
		}
	}
}
