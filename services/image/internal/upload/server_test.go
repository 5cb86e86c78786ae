package upload_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/upload"
)

func serve(t *testing.T, s *upload.Store) imagev1.UploadServiceClient {
	t.Helper()
	server := grpc.NewServer(
		grpc.UnaryInterceptor(fault.UnaryServerInterceptor), grpc.StreamInterceptor(fault.StreamServerInterceptor))
	imagev1.RegisterUploadServiceServer(server, upload.NewServer(s))
	listener := bufconn.Listen(1 << 20)
	go server.Serve(listener) //nolint:errcheck // Stop ends it.
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///buffer",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(fault.UnaryClientInterceptor), grpc.WithStreamInterceptor(fault.StreamClientInterceptor))
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	return imagev1.NewUploadServiceClient(conn)
}

// write sends data in messages, and ends the stream.
func write(ctx context.Context, c imagev1.UploadServiceClient, token string, offset int64, data []byte) (*imagev1.Upload, error) {
	stream, err := c.WriteUpload(ctx)
	if err != nil {
		return nil, err
	}
	first := &imagev1.WriteUploadRequest{Token: token, Offset: offset}
	for message := first; ; message = (&imagev1.WriteUploadRequest{}) {
		n := min(len(data), 100<<10)
		message.Data, data = data[:n], data[n:]
		if err := stream.Send(message); errors.Is(err, io.EOF) || len(data) == 0 {
			return stream.CloseAndRecv() // EOF: it says why
		} else if err != nil {
			return nil, err
		}
	}
}

func TestFileIsSentByGRPC(t *testing.T) {
	s := open(t, upload.Options{Dir: t.TempDir()})
	token, client, file := ensure(t, s, 1).Token, serve(t, s), data(1<<20)
	length := int64(len(file))
	_, err := client.BeginUpload(t.Context(), &imagev1.BeginUploadRequest{Token: token, Length: &length})
	check(t, err)
	state, err := write(t.Context(), client, token, 0, file[:300<<10])
	check(t, err)
	if state.GetOffset() != 300<<10 || state.GetLength() != length || state.GetState() != imagev1.UploadState_Receiving {
		t.Fatalf("after the first part: %v", state)
	}
	_, err = write(t.Context(), client, token, 0, file)
	wantReason(t, err, upload.ReasonOffsetMismatch)
	_, err = write(t.Context(), client, "x", 0, file)
	wantReason(t, err, upload.ReasonUnknown)
	state, err = write(t.Context(), client, token, state.GetOffset(), file[state.GetOffset():])
	check(t, err)
	if state.GetState() != imagev1.UploadState_Complete {
		t.Fatalf("after the last part: %v", state)
	}
	state, err = client.GetUpload(t.Context(), &imagev1.GetUploadRequest{Token: token})
	if err != nil || state.GetState() != imagev1.UploadState_Complete {
		t.Fatalf("asked later: %v, %v", state, err)
	}
	_, err = client.FinishUpload(t.Context(), &imagev1.FinishUploadRequest{Token: token})
	check(t, err)
	if !bytes.Equal(content(t, s), file) {
		t.Error("the file is another one")
	}
}

// TestSenderThatBreaksOffLeavesWhatArrived cuts a stream while it is open.
func TestSenderThatBreaksOffLeavesWhatArrived(t *testing.T) {
	s := open(t, upload.Options{Dir: t.TempDir()})
	changed := make(chan struct{}, 100)
	state, err := s.Ensure(upload.Wish{Owner: owner, Version: 1, Changed: func() { changed <- struct{}{} }})
	check(t, err)
	client := serve(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := client.WriteUpload(ctx)
	check(t, err)
	check(t, stream.Send(&imagev1.WriteUploadRequest{Token: state.Token, Data: []byte("a part")}))
	<-changed // it has arrived
	cancel()
	<-changed // the sender is gone
	if state, err := s.Get(state.Token); err != nil || state.KeptBytes != 6 {
		t.Errorf("%+v is left, %v", state, err)
	}
	last, err := write(t.Context(), client, state.Token, 6, []byte(" more"))
	if err != nil || last.GetOffset() != 11 {
		t.Errorf("it can't be gone on with: %v, %v", last, err)
	}
}

func TestEmptyStreamIsRefused(t *testing.T) {
	client := serve(t, open(t, upload.Options{Dir: t.TempDir()}))
	stream, err := client.WriteUpload(t.Context())
	check(t, err)
	if _, err := stream.CloseAndRecv(); !fault.Is(err, fault.Invalid) {
		t.Errorf("an empty stream: %v", err)
	}
}
