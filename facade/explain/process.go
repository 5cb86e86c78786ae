package explain

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	explainv1 "orlop.dev/gen/orlop/explain/v1"
	"orlop.dev/kit/fault"
)

// Within adds the explanations to the services that connect reaches: whoever asks
// for them gets a connection that stays within the process.
func Within(connect func(service string) (grpc.ClientConnInterface, error)) func(service string) (grpc.ClientConnInterface, error) {
	return func(service string) (grpc.ClientConnInterface, error) {
		if service == explainv1.ExplainService_ServiceDesc.ServiceName {
			return process{&Server{Connect: connect}}, nil
		}
		return connect(service)
	}
}

// process is a connection to the one method of a server in this process.
type process struct{ server *Server }

// Invoke implements grpc.ClientConnInterface.
func (p process) Invoke(ctx context.Context, _ string, request, response any, _ ...grpc.CallOption) error {
	req, asked := request.(*explainv1.ExplainRequest)
	resp, answered := response.(proto.Message)
	if !asked || !answered {
		return status.Error(codes.Unimplemented, "there is no such method")
	}
	// What leaves here arrives here.
	sent, _ := metadata.FromOutgoingContext(ctx)
	answer, err := p.server.Explain(metadata.NewIncomingContext(metadata.NewOutgoingContext(ctx, nil), sent), req)
	if err != nil {
		return fault.ToStatus(err).Err()
	}
	proto.Merge(resp, answer)
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (process) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "there are no streams")
}
