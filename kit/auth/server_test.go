package auth_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/test/bufconn"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"

	"orlop.dev/kit/auth"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/serve"
)

// door is a real server behind a guard, over TLS on an in-memory connection.
type door struct {
	t         *testing.T
	authority *serve.Authority
	listener  *bufconn.Listener
	disks     *disks
}

func openDoor(t *testing.T, n auth.Authenticator, z auth.Authorizer) *door {
	t.Helper()
	authority := openAuthority(t)
	pair, err := authority.Server("orlop.test")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{t: t, authority: authority, listener: bufconn.Listen(1 << 20), disks: &disks{}}
	guard := auth.NewGuard(n, z)
	s := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(serve.ServerTLS(tlsPair(t, pair), authority.Pool()))),
		grpc.ChainUnaryInterceptor(fault.UnaryServerInterceptor, guard.Unary()),
		grpc.ChainStreamInterceptor(fault.StreamServerInterceptor, guard.Stream()),
	)
	diskv1.RegisterVirtualDiskServiceServer(s, d.disks)
	diskv1.RegisterStorageClassServiceServer(s, classes{})
	vmv1.RegisterVirtualMachineServiceServer(s, consoles{})
	networkv1.RegisterVirtualMachineIPAddressServiceServer(s, ports{})
	imagev1.RegisterUploadServiceServer(s, uploads{})
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	reflection.RegisterV1(s)
	s.RegisterService(&strangeDesc, nil)
	served := make(chan error, 1)
	go func() { served <- s.Serve(d.listener) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return d
}

func openAuthority(t *testing.T) *serve.Authority {
	t.Helper()
	a, err := serve.OpenAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func tlsPair(t *testing.T, p serve.Pair) tls.Certificate {
	t.Helper()
	c, err := p.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// dial connects with a token (none if empty) and the certificate of a service
// (none if empty).
func (d *door) dial(token, service string) *grpc.ClientConn {
	d.t.Helper()
	var certificates []tls.Certificate
	if service != "" {
		pair, err := d.authority.Service(service)
		if err != nil {
			d.t.Fatal(err)
		}
		certificates = append(certificates, tlsPair(d.t, pair))
	}
	if token == "" {
		return d.connect(certificates)
	}
	return d.connect(certificates, grpc.WithPerRPCCredentials(serve.BearerToken(token)))
}

func (d *door) connect(certificates []tls.Certificate, options ...grpc.DialOption) *grpc.ClientConn {
	d.t.Helper()
	options = append(options, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return d.listener.DialContext(ctx)
	}))
	conn, err := serve.Dial("passthrough:///orlop.test", serve.ClientTLS(d.authority.Pool(), certificates...), options...)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	return conn
}

// disks answers, and remembers who the last caller was.
type disks struct {
	diskv1.UnimplementedVirtualDiskServiceServer
	caller auth.User
	needs  *auth.Attributes // a right that admission asks for besides
}

func (d *disks) note(ctx context.Context) (*diskv1.VirtualDisk, error) {
	d.caller, _ = auth.UserFrom(ctx)
	if d.needs != nil {
		return &diskv1.VirtualDisk{}, auth.RequireOfCaller(ctx, *d.needs)
	}
	return &diskv1.VirtualDisk{}, nil
}

func (d *disks) CreateVirtualDisk(ctx context.Context, _ *diskv1.CreateVirtualDiskRequest) (*diskv1.VirtualDisk, error) {
	return d.note(ctx)
}

func (d *disks) GetVirtualDisk(ctx context.Context, _ *metav1.GetRequest) (*diskv1.VirtualDisk, error) {
	return d.note(ctx)
}

func (d *disks) UpdateVirtualDisk(ctx context.Context, _ *diskv1.UpdateVirtualDiskRequest) (*diskv1.VirtualDisk, error) {
	return d.note(ctx)
}

func (d *disks) DeleteVirtualDisk(ctx context.Context, _ *metav1.DeleteRequest) (*diskv1.VirtualDisk, error) {
	return d.note(ctx)
}

func (d *disks) ListVirtualDisks(context.Context, *metav1.ListRequest) (*diskv1.ListVirtualDisksResponse, error) {
	return &diskv1.ListVirtualDisksResponse{}, nil
}

func (d *disks) WatchVirtualDisks(_ *metav1.WatchRequest, s grpc.ServerStreamingServer[diskv1.WatchVirtualDisksResponse]) error {
	return s.Send(&diskv1.WatchVirtualDisksResponse{Type: metav1.EventType_Bookmark})
}

func (d *disks) ClaimVirtualDisk(ctx context.Context, _ *metav1.ClaimRequest) (*diskv1.Volume, error) {
	d.caller, _ = auth.UserFrom(ctx)
	return &diskv1.Volume{}, nil
}

type classes struct {
	diskv1.UnimplementedStorageClassServiceServer
}

func (classes) ListStorageClasses(context.Context, *diskv1.ListStorageClassesRequest) (*diskv1.ListStorageClassesResponse, error) {
	return &diskv1.ListStorageClassesResponse{}, nil
}

// consoles echo what they get.
type consoles struct {
	vmv1.UnimplementedVirtualMachineServiceServer
}

func (consoles) AttachConsole(s grpc.BidiStreamingServer[vmv1.AttachConsoleRequest, vmv1.AttachConsoleResponse]) error {
	for {
		in, err := s.Recv()
		if err != nil {
			return err
		}
		if err := s.Send(&vmv1.AttachConsoleResponse{Output: in.GetInput()}); err != nil {
			return err
		}
	}
}

// ports answer before they are asked, which a guard must not let through.
type ports struct {
	networkv1.UnimplementedVirtualMachineIPAddressServiceServer
}

func (ports) Connect(s grpc.BidiStreamingServer[networkv1.ConnectRequest, networkv1.ConnectResponse]) error {
	if err := s.Send(&networkv1.ConnectResponse{Data: []byte("secret")}); err == nil {
		return nil
	}
	if _, err := s.Recv(); err != nil {
		return err
	}
	return s.Send(&networkv1.ConnectResponse{Data: []byte("open")})
}

// strangeDesc is a service that no descriptor says anything about.
var strangeDesc = grpc.ServiceDesc{
	ServiceName: "strange.Service",
	Methods: []grpc.MethodDesc{{MethodName: "Do", Handler: func(_ any, ctx context.Context, dec func(any) error, chain grpc.UnaryServerInterceptor) (any, error) {
		in := &metav1.GetRequest{}
		if err := dec(in); err != nil {
			return nil, err
		}
		return chain(ctx, in, &grpc.UnaryServerInfo{FullMethod: "/strange.Service/Do"}, func(context.Context, any) (any, error) {
			return &metav1.ReleaseResponse{}, nil
		})
	}}},
}

// uploads judges a token in the request by itself.
type uploads struct {
	imagev1.UnimplementedUploadServiceServer
}

func (uploads) GetUpload(context.Context, *imagev1.GetUploadRequest) (*imagev1.Upload, error) {
	return &imagev1.Upload{}, nil
}
