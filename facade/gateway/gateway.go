// Package gateway is the REST door: grpc-gateway's routes, made from the proto,
// and what HTTP needs beside them: manifests as bodies, errors in JSON, ETags,
// OpenAPI and a page to browse it.
//
// It has no rule and no right of its own: it hands credentials and requests on
// to the services.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	networkv1 "orlop.dev/gen/orlop/network/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
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
	// Connections to the services, which may be one and the same.
	Images, Disks, Networks, VMs *grpc.ClientConn
	Logger                       *slog.Logger
}

// Run serves until ctx ends, then lets open requests finish for a while.
func Run(ctx context.Context, opts Options) error {
	handler, err := Handler(ctx, opts)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, TLSConfig: opts.TLS,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog:    slog.NewLogLogger(opts.Logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
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

// Handler is the REST door without a listener.
func Handler(ctx context.Context, opts Options) (http.Handler, error) {
	routes := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, newManifestMarshaler()),
		runtime.WithErrorHandler(writeError),
		runtime.WithRoutingErrorHandler(writeRoutingError),
		runtime.WithIncomingHeaderMatcher(passHeader),
		runtime.WithForwardResponseOption(writeETag),
	)
	if err := register(ctx, routes, opts); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", withPreconditions(routes))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /openapi.json", serveOpenAPI)
	mux.HandleFunc("GET /docs", serveDocs)
	return mux, nil
}

// register adds the routes of every service that has some.
func register(ctx context.Context, routes *runtime.ServeMux, opts Options) error {
	type registration struct {
		conn     *grpc.ClientConn
		register func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error
	}
	for _, service := range []registration{
		{opts.Images, imagev1.RegisterVirtualImageServiceHandler},
		{opts.Images, imagev1.RegisterClusterVirtualImageServiceHandler},
		{opts.Disks, diskv1.RegisterVirtualDiskServiceHandler},
		{opts.Disks, diskv1.RegisterStorageClassServiceHandler},
		{opts.Networks, networkv1.RegisterVirtualMachineIPAddressServiceHandler},
		{opts.Networks, networkv1.RegisterVirtualMachineIPAddressLeaseServiceHandler},
		{opts.VMs, vmv1.RegisterVirtualMachineServiceHandler},
		{opts.VMs, vmv1.RegisterVirtualMachineClassServiceHandler},
		{opts.VMs, vmv1.RegisterVirtualMachineOperationServiceHandler},
		{opts.VMs, vmv1.RegisterNodeServiceHandler},
	} {
		if err := service.register(ctx, routes, service.conn); err != nil {
			return err
		}
	}
	return nil
}
