package fabric

import (
	"errors"
	"fmt"
)

// ErrMissing says that the guests' network isn't there: Ensure makes it.
var ErrMissing = errors.New("the guests' bridge is missing")

// An OptionError says which given value breaks which rule.
type OptionError struct {
	Option string
	Rule   string
}

func (e *OptionError) Error() string { return e.Option + " " + e.Rule }

// A ConflictError says that another guest has what is claimed.
type ConflictError struct {
	ID    string // of the other guest
	Claim string
}

func (e *ConflictError) Error() string { return fmt.Sprintf("%s belongs to %s", e.Claim, e.ID) }

// A ForeignError says that a device has the name of one of ours but was made by somebody else. It is left alone.
type ForeignError struct{ Device string }

func (e *ForeignError) Error() string {
	return fmt.Sprintf("device %s exists and is not one of this network", e.Device)
}
