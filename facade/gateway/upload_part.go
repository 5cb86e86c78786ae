package gateway

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"orlop.dev/kit/fault"
)

// pieceType is the type of the body of a PATCH.
const pieceType = "application/offset+octet-stream"

// part is what a request brings of a file.
type part struct {
	offset int64
	// length is that of the whole file; nil where it isn't told.
	length *int64
	whole  bool
}

// partOf reads what a PUT or POST brings.
func partOf(r *http.Request) (part, error) {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); strings.HasPrefix(kind, "multipart/") {
		return part{}, &statusError{http.StatusUnsupportedMediaType,
			fault.New(fault.Invalid, "UnsupportedMediaType", "the body must be the file itself, not a form: curl -T FILE")}
	}
	if text := r.Header.Get("Content-Range"); text != "" {
		return parseRange(text, r.ContentLength)
	}
	p := part{whole: true}
	if r.ContentLength >= 0 {
		p.length = &r.ContentLength
	}
	return p, nil
}

// parseRange reads "bytes FIRST-LAST/LENGTH", where LENGTH may be *.
func parseRange(text string, bodyBytes int64) (part, error) {
	refused := fault.Refuse("Content-Range", "FieldValueInvalid", "must be: bytes FIRST-LAST/LENGTH, as long as the body")
	positions, isBytes := strings.CutPrefix(text, "bytes ")
	span, total, hasTotal := strings.Cut(positions, "/")
	first, last, isSpan := strings.Cut(span, "-")
	if !isBytes || !hasTotal || !isSpan {
		return part{}, refused
	}
	begin, err := natural(first)
	if err != nil {
		return part{}, refused
	}
	end, err := natural(last)
	if err != nil || end < begin || bodyBytes >= 0 && bodyBytes != end-begin+1 {
		return part{}, refused
	}
	p := part{offset: begin}
	if total == "*" {
		return p, nil
	}
	length, err := natural(total)
	if err != nil || length <= end {
		return part{}, refused
	}
	p.length = &length
	return p, nil
}

// position reads the headers of a PATCH.
func position(r *http.Request) (offset int64, length *int64, err error) {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != pieceType {
		return 0, nil, &statusError{http.StatusUnsupportedMediaType,
			fault.New(fault.Invalid, "UnsupportedMediaType", "Content-Type must be %s", pieceType)}
	}
	if offset, err = natural(r.Header.Get(headerOffset)); err != nil {
		return 0, nil, fault.Refuse(headerOffset, "FieldValueRequired", "must be the number of bytes that have arrived")
	}
	if text := r.Header.Get(headerLength); text != "" {
		whole, err := natural(text)
		if err != nil {
			return 0, nil, fault.Refuse(headerLength, "FieldValueInvalid", "must be the size of the whole file in bytes")
		}
		length = &whole
	}
	return offset, length, nil
}

// natural reads a number without sign.
func natural(text string) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	return int64(n), err
}
