package guestagent

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        int64  `json:"id"`
}

type reply struct {
	ID     *int64          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// sync aligns a new connection: whatever the agent still sends for earlier ones
// comes before the reply that carries our random number.
func (s *stream) sync() error {
	mark := random()
	line, err := json.Marshal(request{
		Execute:   "guest-sync-delimited",
		Arguments: map[string]int64{"id": mark},
		ID:        mark,
	})
	if err != nil {
		return err
	}
	if _, err := s.conn.Write(append(append([]byte{delimiter}, line...), '\n')); err != nil {
		return err
	}
	budget := maxSkipped
	for {
		line, err := s.line(&budget)
		if err != nil {
			return err
		}
		// The delimiter may follow the rest of a stale, cut reply.
		if at := bytes.LastIndexByte(line, delimiter); at >= 0 {
			line = line[at+1:]
		}
		var answer struct {
			Return int64 `json:"return"`
		}
		if json.Unmarshal(line, &answer) == nil && answer.Return == mark {
			return nil
		}
	}
}

// ask sends a command and reads until the reply with its id.
func (s *stream) ask(command string, arguments, result any) error {
	id := random()
	if err := s.send(request{Execute: command, Arguments: arguments, ID: id}); err != nil {
		return err
	}
	budget := maxSkipped
	for {
		line, err := s.line(&budget)
		if err != nil {
			return err
		}
		var answer reply
		if json.Unmarshal(line, &answer) != nil || answer.ID == nil || *answer.ID != id {
			continue
		}
		if answer.Error != nil {
			return &Error{Command: command, Class: clean(answer.Error.Class), Desc: clean(answer.Error.Desc)}
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(answer.Return, result); err != nil {
			return fmt.Errorf("reply: %w", err)
		}
		return nil
	}
}

func (s *stream) send(r request) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = s.conn.Write(append(line, '\n'))
	return err
}

// line reads up to the next newline, within maxReply and what is left of the
// request's budget.
func (s *stream) line(budget *int) ([]byte, error) {
	var line []byte
	for {
		part, err := s.reader.ReadSlice('\n')
		*budget -= len(part)
		if *budget < 0 || len(line)+len(part) > maxReply {
			return nil, ErrFlood
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

// random gives an id that no stale reply carries, within what JSON numbers hold
// exactly.
func random() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, says crypto/rand
	return int64(binary.BigEndian.Uint64(b[:]) >> 11)
}
