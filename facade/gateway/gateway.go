// Package gateway is the REST door: grpc-gateway's routes, made from the proto,
// and what HTTP needs beside them: manifests as bodies, errors in JSON, ETags,
// uploads and downloads of files, web sockets to VMs, OpenAPI and a page to
// browse it.
//
// It names no kind, but the services that files and web sockets lead to, and has no
// rule and no right of its own: it hands credentials and requests on to the
// services.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"orlop.dev/facade/explain"
	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/gen/rest"
)

const (
	headerTimeout   = 10 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 10 * time.Second
)

// Options say where the gateway listens and whom it calls.
type Options struct {
	Listener net.Listener
	TLS      *tls.Config
	// Connect returns the connection to a service by its full name, such as
	// orlop.disk.v1.VirtualDiskService. All may share one. It must be a connection
	// without a client certificate: the services know users by the token that is
	// passed on, and a connection with a service's certificate has that service's
	// rights. The gateway itself refuses requests that carry no credential.
	Connect func(service string) (grpc.ClientConnInterface, error)
	Logger  *slog.Logger
}

// Run serves until ctx ends. Watches, uploads and downloads end then; other
// open requests get a while to finish.
func Run(ctx context.Context, opts Options) error {
	handler, err := Handler(ctx, opts)
	if err != nil {
		return errors.Join(err, opts.Listener.Close())
	}
	server := &http.Server{
		Handler: handler, TLSConfig: opts.TLS,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog: slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(opts.Listener, "", "") }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err = server.Shutdown(last)
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Handler is the REST door without a listener. Its streams, sockets, uploads and
// downloads end with ctx.
func Handler(ctx context.Context, opts Options) (http.Handler, error) {
	routes, err := newRoutes(ctx, opts)
	if err != nil {
		return nil, err
	}
	conns := map[string]grpc.ClientConnInterface{}
	for _, service := range []grpc.ServiceDesc{
		imagev1.UploadService_ServiceDesc, diskv1.DiskExportService_ServiceDesc, diskv1.SnapshotExportService_ServiceDesc,
		vmv1.VirtualMachineService_ServiceDesc, networkv1.VirtualMachineIPAddressService_ServiceDesc,
	} {
		if conns[service.ServiceName], err = opts.Connect(service.ServiceName); err != nil {
			return nil, fmt.Errorf("connect to %s: %w", service.ServiceName, err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/", requireCredential(routes))
	for service, client := range map[*grpc.ServiceDesc]exports{
		&diskv1.DiskExportService_ServiceDesc:     diskv1.NewDiskExportServiceClient(conns[diskv1.DiskExportService_ServiceDesc.ServiceName]),
		&diskv1.SnapshotExportService_ServiceDesc: diskv1.NewSnapshotExportServiceClient(conns[diskv1.SnapshotExportService_ServiceDesc.ServiceName]),
	} {
		pattern, err := downloadPattern(*service)
		if err != nil {
			return nil, err
		}
		mux.Handle(pattern, requireCredential(&downloads{ctx: ctx, client: client}))
	}
	mux.Handle(socketPattern, takeSocketCredential(requireCredential(&sockets{
		ctx:      ctx,
		machines: conns[vmv1.VirtualMachineService_ServiceDesc.ServiceName],
		guests:   conns[networkv1.VirtualMachineIPAddressService_ServiceDesc.ServiceName],
	})))
	mux.Handle("/upload/{token}", &uploads{
		ctx: ctx, client: imagev1.NewUploadServiceClient(conns[imagev1.UploadService_ServiceDesc.ServiceName]),
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /openapi.json", serveOpenAPI)
	mux.HandleFunc("GET /docs", serveDocs)
	return mux, nil
}

// newRoutes are the routes that the proto has.
func newRoutes(ctx context.Context, opts Options) (http.Handler, error) {
	connect := explain.Within(opts.Connect)
	calls, err := newCalls(rest.Handlers())
	if err != nil {
		return nil, err
	}
	routes := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, newManifestMarshaler()),
		runtime.WithErrorHandler(handleError),
		runtime.WithRoutingErrorHandler(handleRoutingError),
		runtime.WithIncomingHeaderMatcher(passHeader),
		runtime.WithForwardResponseOption(writeETag),
		runtime.WithMiddlewares(calls.prepare, calls.endStreamsWith(ctx)),
		// A POST is a POST, whatever a header says of it.
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
	)
	for _, handler := range rest.Handlers() {
		conn, err := connect(handler.Service)
		if err != nil {
			return nil, fmt.Errorf("connect to %s: %w", handler.Service, err)
		}
		if err := handler.Register(ctx, routes, conn); err != nil {
			return nil, fmt.Errorf("routes of %s: %w", handler.Service, err)
		}
	}
	return routes, nil
}
