package upload

import (
	"context"
	"errors"
	"io"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
)

// Server is the store with a wire on it.
type Server struct {
	imagev1.UnimplementedUploadServiceServer
	store *Store
}

// NewServer serves a store's uploads.
func NewServer(store *Store) *Server { return &Server{store: store} }

// BeginUpload implements imagev1.UploadServiceServer.
func (s *Server) BeginUpload(_ context.Context, r *imagev1.BeginUploadRequest) (*imagev1.Upload, error) {
	length := int64(UnknownLength)
	if r.Length != nil {
		if length = r.GetLength(); length <= 0 {
			return nil, fault.New(fault.Invalid, ReasonLengthMismatch, "a file of %d bytes is no image", length)
		}
	}
	return view(s.store.Begin(r.GetToken(), length, r.GetRestart()))
}

// GetUpload implements imagev1.UploadServiceServer.
func (s *Server) GetUpload(_ context.Context, r *imagev1.GetUploadRequest) (*imagev1.Upload, error) {
	return view(s.store.Get(r.GetToken()))
}

// FinishUpload implements imagev1.UploadServiceServer.
func (s *Server) FinishUpload(_ context.Context, r *imagev1.FinishUploadRequest) (*imagev1.Upload, error) {
	return view(s.store.Finish(r.GetToken()))
}

// WriteUpload implements imagev1.UploadServiceServer.
func (s *Server) WriteUpload(messages imagev1.UploadService_WriteUploadServer) error {
	first, err := messages.Recv()
	if errors.Is(err, io.EOF) {
		return fault.Refuse("token", "FieldValueRequired", "Required value")
	}
	if err != nil {
		return err
	}
	body, stop := follow(messages, first.GetData())
	defer stop()
	answer, err := view(s.store.Append(messages.Context(), first.GetToken(), first.GetOffset(), body))
	if err != nil {
		return err
	}
	return messages.SendAndClose(answer)
}

// follow is the data of a stream as a reader. It ends with an error when the
// stream's context does, even while nothing comes. What follow starts ends soon
// after stop: with the stream, which ends when its handler returns.
func follow(messages imagev1.UploadService_WriteUploadServer, first []byte) (body io.Reader, stop func()) {
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(pass(messages, first, writer)) }()
	cut := context.AfterFunc(messages.Context(), func() { writer.CloseWithError(context.Cause(messages.Context())) })
	return reader, func() {
		cut()
		reader.Close()
	}
}

// pass writes the data of messages until they end.
func pass(messages imagev1.UploadService_WriteUploadServer, data []byte, to io.Writer) error {
	for {
		if len(data) > 0 {
			if _, err := to.Write(data); err != nil {
				return err
			}
		}
		message, err := messages.Recv()
		if err != nil {
			return err // io.EOF is the end of the reader, too
		}
		data = message.GetData()
	}
}

// view is a state as the service shows it.
func view(state State, err error) (*imagev1.Upload, error) {
	if err != nil {
		return nil, err
	}
	shown := &imagev1.Upload{Offset: state.KeptBytes, State: imagev1.UploadState_Receiving}
	if state.LengthBytes != UnknownLength {
		shown.Length = &state.LengthBytes
	}
	switch state.Stage {
	case Waiting:
		shown.State = imagev1.UploadState_Waiting
	case Complete:
		shown.State = imagev1.UploadState_Complete
	}
	return shown, nil
}
