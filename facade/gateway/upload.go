package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
)

// Headers that say where a piece of a file belongs, by the names of the draft on
// resumable uploads for HTTP.
const (
	headerOffset   = "Upload-Offset"
	headerLength   = "Upload-Length"
	headerComplete = "Upload-Complete"
)

// Reasons of the upload service for which HTTP has a code of its own.
const (
	reasonUploadTooLarge       = "UploadTooLarge"
	reasonUploadNoSpace        = "NoSpaceForUpload"
	reasonUploadOffsetMismatch = "UploadOffsetMismatch"
)

// uploads is the door for files that users send: /upload/TOKEN. The token is the
// credential, and the upload service judges it.
//
//	GET, HEAD  how much has arrived
//	PUT, POST  the whole file; with Content-Range (RFC 9110, 14.5) a part of it
//	PATCH      a part of it, where Upload-Offset says
type uploads struct {
	// ctx ends uploads under way: they can be gone on with.
	ctx    context.Context
	client imagev1.UploadServiceClient
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The answers are about a moment, and the address is a secret.
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	token := r.PathValue("token")
	var state *imagev1.Upload
	var err error
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		state, err = u.client.GetUpload(r.Context(), &imagev1.GetUploadRequest{Token: token})
	case http.MethodPut, http.MethodPost:
		state, err = u.file(w, r, token)
	case http.MethodPatch:
		state, err = u.piece(w, r, token)
	default:
		w.Header().Set("Allow", "GET, HEAD, PATCH, POST, PUT")
		err = &statusError{http.StatusMethodNotAllowed, fault.New(fault.Invalid, reasonOf(http.StatusMethodNotAllowed), "an upload has no %s", r.Method)}
	}
	if err != nil {
		u.refuse(w, r, token, err)
		return
	}
	showUpload(w, r.Method, state)
}

// file takes a whole file, or the part that Content-Range names. A file that
// comes whole takes the place of what has arrived before.
func (u *uploads) file(w http.ResponseWriter, r *http.Request, token string) (*imagev1.Upload, error) {
	part, err := partOf(r)
	if err != nil {
		return nil, err
	}
	begin := &imagev1.BeginUploadRequest{Token: token, Length: part.length, Restart: part.whole}
	if _, err := u.client.BeginUpload(r.Context(), begin); err != nil {
		return nil, err
	}
	state, err := u.send(w, r, token, part.offset)
	if err != nil || !part.whole || part.length != nil {
		return state, err
	}
	return u.finish(r, token)
}

// piece takes what comes behind the part that has arrived.
func (u *uploads) piece(w http.ResponseWriter, r *http.Request, token string) (*imagev1.Upload, error) {
	offset, length, err := position(r)
	if err != nil {
		return nil, err
	}
	if length != nil {
		if _, err := u.client.BeginUpload(r.Context(), &imagev1.BeginUploadRequest{Token: token, Length: length}); err != nil {
			return nil, err
		}
	}
	state, err := u.send(w, r, token, offset)
	if err != nil || r.Header.Get(headerComplete) != "?1" {
		return state, err
	}
	return u.finish(r, token)
}

func (u *uploads) finish(r *http.Request, token string) (*imagev1.Upload, error) {
	return u.client.FinishUpload(r.Context(), &imagev1.FinishUploadRequest{Token: token})
}

// refuse answers with an error. Who was wrong about the offset is told the right
// one.
func (u *uploads) refuse(w http.ResponseWriter, r *http.Request, token string, err error) {
	f := fault.From(err)
	switch f.Reason {
	case reasonUploadTooLarge:
		err = &statusError{http.StatusRequestEntityTooLarge, f}
	case reasonUploadNoSpace:
		err = &statusError{http.StatusInsufficientStorage, f}
	case reasonUploadOffsetMismatch:
		state, lost := u.client.GetUpload(r.Context(), &imagev1.GetUploadRequest{Token: token})
		if lost == nil {
			setPosition(w, state)
		}
	}
	writeError(w, err)
}

func setPosition(w http.ResponseWriter, state *imagev1.Upload) {
	w.Header().Set(headerOffset, strconv.FormatInt(state.GetOffset(), 10))
	if state.Length != nil {
		w.Header().Set(headerLength, strconv.FormatInt(state.GetLength(), 10))
	}
}

// showUpload writes how far an upload is: in headers, and in JSON where there is
// somebody to read it.
func showUpload(w http.ResponseWriter, method string, state *imagev1.Upload) {
	setPosition(w, state)
	complete := "?0"
	if state.GetState() == imagev1.UploadState_Complete {
		complete = "?1"
	}
	w.Header().Set(headerComplete, complete)
	if method == http.MethodPatch {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", contentType)
	// The client is gone if this fails.
	_ = json.NewEncoder(w).Encode(struct {
		State  string `json:"state"`
		Offset int64  `json:"offset"`
		Length *int64 `json:"length,omitempty"`
	}{state.GetState().String(), state.GetOffset(), state.Length})
}
