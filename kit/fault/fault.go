// Package fault is the error vocabulary of all services.
//
// A Fault says three things: its class, which is what the caller can do about
// it; its reason, a CamelCase word for programs that becomes a condition's
// reason as it stands; and a message for people. Faults are translated at
// exactly two edges (see ToStatus and FromStatus), so that the failure of a
// remote service looks like that of a local one.
//
// The package knows gRPC's codes and HTTP's; it must not know any kind, store
// or service.
package fault

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Reasons that the package itself gives.
const (
	// ReasonInternal is the reason of an error that nobody classified.
	ReasonInternal = "InternalError"
	// ReasonInvalid is the reason of a value that breaks a rule; see Fields.
	ReasonInvalid = "Invalid"
	// ReasonCanceled says that the caller left before the work was done.
	ReasonCanceled = "Canceled"
	// ReasonDeadlineExceeded says that the caller's time was up.
	ReasonDeadlineExceeded = "DeadlineExceeded"
)

// Fault is a classified error. Make it with New or Wrap; it is not changed
// after it was returned.
type Fault struct {
	Class Class
	// Reason is a CamelCase word for programs.
	Reason string
	// Message is a sentence for people. It goes over the wire, so it never
	// holds secrets.
	Message string
	// Fields are the values that were refused, for class Invalid.
	Fields []Field
	// RetryAfter, where it isn't zero, is how long to wait before trying again.
	RetryAfter time.Duration

	cause error
}

// Field is one refused value.
type Field struct {
	// Path is the JSON path of the value: spec.blockDeviceRefs[0].kind.
	Path string
	// Rule is a CamelCase word for the rule that it breaks: FieldValueRequired.
	Rule string
	// Message says what is wrong, in words that make sense after the path.
	Message string
}

// New returns a fault of its own, with no other error behind it.
func New(class Class, reason, format string, args ...any) *Fault {
	return &Fault{Class: class, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Wrap classifies err. The message is for people and does not repeat err, which
// stays on this side of the wire but is found by errors.Is and errors.As.
func Wrap(err error, class Class, reason, format string, args ...any) *Fault {
	f := New(class, reason, format, args...)
	f.cause = err
	return f
}

// Refuse returns the fault of a value that breaks a rule.
func Refuse(path, rule, format string, args ...any) *Fault {
	message := fmt.Sprintf(format, args...)
	return New(Invalid, ReasonInvalid, "%s: %s", path, message).WithField(path, rule, message)
}

// WithField returns a copy of f that names one more refused value.
func (f *Fault) WithField(path, rule, message string) *Fault {
	c := *f
	c.Fields = append(append([]Field(nil), f.Fields...), Field{Path: path, Rule: rule, Message: message})
	return &c
}

// WithRetryAfter returns a copy of f that asks to wait for d before trying again.
func (f *Fault) WithRetryAfter(d time.Duration) *Fault {
	c := *f
	c.RetryAfter = d
	return &c
}

// Error is the message, with the cause where there is one. Logs may have it;
// the wire gets Message alone.
func (f *Fault) Error() string {
	if f.cause == nil {
		return f.Message
	}
	return f.Message + ": " + f.cause.Error()
}

// Unwrap returns the error that was classified, or nil.
func (f *Fault) Unwrap() error { return f.cause }

// Is makes errors.Is(err, &Fault{Class: c, Reason: r}) true for faults of that
// class and, unless it is empty, of that reason.
func (f *Fault) Is(target error) bool {
	t, ok := target.(*Fault)
	return ok && t.Class == f.Class && (t.Reason == "" || t.Reason == f.Reason)
}

// From returns the fault in err's chain. An error of gRPC is read as FromStatus
// reads it, the end of a context is Transient, and whatever nobody classified is
// Internal. From(nil) is nil.
func From(err error) *Fault {
	var f *Fault
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.Canceled):
		return Wrap(err, Transient, ReasonCanceled, "the caller left")
	case errors.Is(err, context.DeadlineExceeded):
		return Wrap(err, Transient, ReasonDeadlineExceeded, "the deadline has passed")
	}
	if f := fromForeignStatus(err); f != nil {
		return f
	}
	return Wrap(err, Internal, ReasonInternal, "internal error")
}

// ClassOf returns the class of err, None for nil.
func ClassOf(err error) Class {
	if err == nil {
		return None
	}
	return From(err).Class
}

// ReasonOf returns the reason of err, "" for nil.
func ReasonOf(err error) string {
	if err == nil {
		return ""
	}
	return From(err).Reason
}

// Is reports whether err is of one of the classes.
func Is(err error, classes ...Class) bool {
	if err == nil {
		return false
	}
	c := From(err).Class
	for _, want := range classes {
		if c == want {
			return true
		}
	}
	return false
}
