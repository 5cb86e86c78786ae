// Package failure is the vocabulary in which the packages below the image
// service say why an import stopped: whether trying again can help, a reason
// for machines and a message for people.
//
// It knows no transport and no API: the service translates it at its edge.
package failure

import (
	"errors"
	"fmt"
)

// Class says what trying again can do.
type Class int

const (
	// Temporary failures may pass by themselves: the same attempt can succeed later.
	Temporary Class = iota
	// Terminal failures stay until the source or the request changes.
	Terminal
)

// String names the class in logs.
func (c Class) String() string {
	if c == Terminal {
		return "Terminal"
	}
	return "Temporary"
}

// Reason is one CamelCase word that names the kind of failure. It never changes
// once released, as users match on it.
type Reason string

// Error is a classified failure. Message and the text of Cause hold no credentials.
type Error struct {
	Class   Class
	Reason  Reason
	Message string
	Cause   error
}

// Error returns the message, followed by its cause if there is one.
func (e *Error) Error() string {
	if e.Cause == nil {
		return e.Message
	}
	return e.Message + ": " + e.Cause.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Terminalf makes a terminal failure.
func Terminalf(reason Reason, format string, args ...any) *Error {
	return &Error{Class: Terminal, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Temporaryf makes a temporary failure. The cause may be nil.
func Temporaryf(reason Reason, cause error, format string, args ...any) *Error {
	return &Error{Class: Temporary, Reason: reason, Message: fmt.Sprintf(format, args...), Cause: cause}
}

// ReasonOf returns the reason of the outermost classified failure in err's
// chain, or the empty reason.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

// IsTerminal reports whether the outermost classified failure in err's chain is
// terminal. What nobody classified counts as temporary: it is retried, not lost.
func IsTerminal(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Class == Terminal
}
