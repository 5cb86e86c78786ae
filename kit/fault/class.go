package fault

import (
	"net/http"

	"google.golang.org/grpc/codes"
)

// Class says what a caller can do about a fault.
type Class int

const (
	// None is the class of no error.
	None Class = iota
	// Invalid says that the request breaks a rule, and will until it is changed.
	Invalid
	// Unauthenticated says that nobody vouches for the caller.
	Unauthenticated
	// Denied says that the caller is known and may not.
	Denied
	// Exists says that the name is taken.
	Exists
	// NotReady says that the request is right, but something it depends on isn't there yet.
	NotReady
	// NotFound says that the object, or one it depends on, doesn't exist.
	NotFound
	// Exhausted says that there is no room, address or quota left.
	Exhausted
	// Stale says that the caller acted on an older state: look again and decide again.
	Stale
	// Transient says that trying again, later, can help.
	Transient
	// Internal is our mistake. Somebody should look.
	Internal
)

// row is what a class is called at each edge.
type row struct {
	name string
	code codes.Code
	http int
}

var rows = [...]row{
	None:            {"None", codes.OK, http.StatusOK},
	Invalid:         {"Invalid", codes.InvalidArgument, http.StatusBadRequest},
	Unauthenticated: {"Unauthenticated", codes.Unauthenticated, http.StatusUnauthorized},
	Denied:          {"Denied", codes.PermissionDenied, http.StatusForbidden},
	Exists:          {"Exists", codes.AlreadyExists, http.StatusConflict},
	NotReady:        {"NotReady", codes.FailedPrecondition, http.StatusBadRequest},
	NotFound:        {"NotFound", codes.NotFound, http.StatusNotFound},
	Exhausted:       {"Exhausted", codes.ResourceExhausted, http.StatusTooManyRequests},
	Stale:           {"Stale", codes.Aborted, http.StatusConflict},
	Transient:       {"Transient", codes.Unavailable, http.StatusServiceUnavailable},
	Internal:        {"Internal", codes.Internal, http.StatusInternalServerError},
}

// String returns the class's name. An unknown class is Internal.
func (c Class) String() string { return c.row().name }

// HTTPStatus returns the HTTP status code of the class.
func (c Class) HTTPStatus() int { return c.row().http }

func (c Class) code() codes.Code { return c.row().code }

func (c Class) row() row {
	if c < 0 || int(c) >= len(rows) {
		return rows[Internal]
	}
	return rows[c]
}

// classOf reads codes that our own services never send too: grpc itself does,
// and so may a peer that isn't ours.
func classOf(code codes.Code) Class {
	switch code {
	case codes.OutOfRange, codes.Unimplemented:
		return Invalid
	case codes.Canceled, codes.DeadlineExceeded:
		return Transient
	}
	for c, r := range rows {
		if r.code == code {
			return Class(c)
		}
	}
	return Internal
}
