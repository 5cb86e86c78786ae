package local

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"orlop.dev/deploy/local/internal/kubernetes"
	"orlop.dev/facade/explain"
	"orlop.dev/facade/gateway"
	"orlop.dev/facade/home"
	facade "orlop.dev/facade/kubernetes"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve"
	"orlop.dev/services/disk"
	"orlop.dev/services/image"
	"orlop.dev/services/network"
	"orlop.dev/services/snapshot"
	"orlop.dev/services/vm"
)

// peers are the services, all behind one gRPC server.
type peers struct {
	identity *identity
	target   string
	stack    *stack
}

// as connects to the services as one of them.
func (p *peers) as(name string) (*grpc.ClientConn, error) {
	conn, err := p.identity.dialAs(name, p.target)
	if err != nil {
		return nil, err
	}
	p.stack.push("connection of "+name, conn.Close)
	return conn, nil
}

// toAll says that all kinds are to be found at one place.
func toAll(conn grpc.ClientConnInterface) func(*kind.Kind) (grpc.ClientConnInterface, error) {
	return func(*kind.Kind) (grpc.ClientConnInterface, error) { return conn, nil }
}

// startServices returns when every service has read what it keeps.
func (d *daemon) startServices(ctx context.Context) (string, error) {
	guard, err := d.guard()
	if err != nil {
		return "", fmt.Errorf("who may come in: %w", err)
	}
	d.peers = &peers{identity: d.identity, target: d.doors.grpc.Addr().String(), stack: d.stack}
	parts, err := d.parts(ctx)
	if err != nil {
		return "", err
	}
	options := serve.Defaults()
	options.Address = d.peers.target
	if d.doors.metrics.IsValid() {
		options.PrivateAddress = d.doors.metrics.String()
	}
	config := serve.Config{
		Options: options, Name: "orlopd", Guard: guard,
		TLS: d.identity.serviceTLS(), Listener: d.doors.grpc, Registry: d.metrics, Logger: d.logger,
	}
	d.stack.run("services", func(ctx context.Context) error { return serve.Run(ctx, config, parts...) })
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range parts {
		group.Go(func() error {
			if err := part.Ready(ctx); err != nil {
				return fmt.Errorf("%s: %w", part.Name, err)
			}
			return nil
		})
	}
	return d.doors.endpoints[home.GRPC], group.Wait()
}

// parts makes the services.
func (d *daemon) parts(ctx context.Context) ([]serve.Part, error) {
	var parts []serve.Part
	for _, service := range []struct {
		name string
		make func(context.Context, *grpc.ClientConn) (serve.Part, error)
	}{
		{"image", d.newImage},
		{"disk", d.newDisk},
		{"network", d.newNetwork},
		{"vm", d.newVM},
		{"snapshot", d.newSnapshot},
	} {
		conn, err := d.peers.as(service.name)
		if err != nil {
			return nil, err
		}
		part, err := service.make(ctx, conn)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", service.name, err)
		}
		parts = append(parts, part)
	}
	explanations, err := d.newExplain()
	if err != nil {
		return nil, fmt.Errorf("explanations: %w", err)
	}
	parts = append(parts, explanations)
	if d.cluster == nil {
		return parts, nil
	}
	secrets, err := facade.NewSecrets(d.cluster.rest)
	if err != nil {
		return nil, fmt.Errorf("secrets: %w", err)
	}
	pods, err := facade.NewPods(d.cluster.rest)
	if err != nil {
		return nil, fmt.Errorf("pods: %w", err)
	}
	return append(parts, secrets.Part(), pods.Part()), nil
}

// newExplain serves explanations at the gRPC door. Like the gateway it is nobody
// to the services.
func (d *daemon) newExplain() (serve.Part, error) {
	conn, err := d.identity.dial(d.peers.target)
	if err != nil {
		return serve.Part{}, err
	}
	d.stack.push("connection of the explanations", conn.Close)
	server := &explain.Server{Connect: func(string) (grpc.ClientConnInterface, error) { return conn, nil }}
	return server.Part(), nil
}

func (d *daemon) newImage(_ context.Context, conn *grpc.ClientConn) (serve.Part, error) {
	sources, err := home.Prefixes(d.settings.AllowImageSources)
	if err != nil {
		return serve.Part{}, err
	}
	credential := d.images.Credential()
	options := image.Options{
		Etcd: d.store.Client(), Prefix: image.DefaultPrefix,
		Registry: image.Registry{
			Endpoint: d.doors.endpoints[home.DVCR], CA: d.identity.authority.CertificatePEM(),
			Username: credential.Username, Password: credential.Password,
		},
		BlobPath: image.BlobsIn(d.images.Dir()), UploadDir: image.UploadsIn(d.images.Dir()),
		StagingDir: d.home.Images(), AllowSources: sources, Disks: conn, Snapshots: conn,
		Uploads: image.Uploads{URL: "https://" + d.doors.endpoints[home.REST], CAFile: d.home.CACertificate()},
		Logger:  d.logger.With("service", "image"),
	}
	if d.cluster != nil {
		options.Secrets = conn
	}
	service, err := image.New(options)
	if err != nil {
		return serve.Part{}, err
	}
	return service.Part(), nil
}

func (d *daemon) newDisk(_ context.Context, conn *grpc.ClientConn) (serve.Part, error) {
	service, err := disk.New(disk.Options{
		Etcd: d.store.Client(), Prefix: disk.DefaultPrefix, Images: conn, Snapshots: conn, Dir: d.home.Disks(),
		DefaultStorageClass: d.settings.DefaultStorageClass, DefaultImageStorageClass: d.settings.DefaultImageStorageClass,
		Overcommit: d.settings.DiskOvercommit,
		Logger:     d.logger.With("service", "disk"),
	})
	if err != nil {
		return serve.Part{}, err
	}
	return service.Part(), nil
}

func (d *daemon) newNetwork(_ context.Context, conn *grpc.ClientConn) (serve.Part, error) {
	var virtual []netip.Prefix
	if d.ownsKubernetes() {
		virtual = []netip.Prefix{kubernetes.ServiceNetwork}
	}
	service, err := network.New(network.Options{
		Etcd: d.store.Client(), Prefix: network.DefaultPrefix, VirtualMachines: conn,
		CIDRs: d.settings.VirtualMachineCIDRs, Mode: d.settings.NetworkMode, Virtual: virtual,
		Namespace: filepath.Base(d.home.NetworkNamespace()), StateDir: d.home.Network(),
		Logger: d.logger.With("service", "network"),
	})
	if err != nil {
		return serve.Part{}, err
	}
	mode, reason := service.Mode()
	d.report.fact("network", mode, reason)
	d.gateway, d.reach = service.Gateway(), service.DialContext
	return service.Part(), nil
}

func (d *daemon) newVM(ctx context.Context, conn *grpc.ClientConn) (serve.Part, error) {
	memory, err := memoryBytes()
	if err != nil {
		return serve.Part{}, err
	}
	bandwidth, err := d.settings.MigrationBytesPerSecond()
	if err != nil {
		return serve.Part{}, err
	}
	nodeAddress := ""
	if d.gateway.IsValid() {
		nodeAddress = d.gateway.String()
	}
	options := vm.Options{
		Etcd: d.store.Client(), Prefix: vm.DefaultPrefix, Disks: conn, Images: conn, Networks: conn, Snapshots: conn,
		Dir: d.home.Machines(), DiskRoots: []string{d.home.Disks(), d.images.Dir()},
		Nodes: nodeNames(d.settings.Nodes), NodeAddress: nodeAddress, QEMU: d.settings.QEMU,
		KeepOldQEMU: d.settings.KeepOldQEMU, RebalanceEvery: d.settings.RebalanceEvery,
		Migration: vm.Migration{
			BytesPerSecond: bandwidth, ProgressTimeout: d.settings.MigrationProgressTimeout,
			CompletionTimeoutPerGiB: d.settings.MigrationCompletionTimeout, CopyDisks: d.settings.CopyLocalDisks,
		},
		MilliCPU:    int64(float64(runtime.NumCPU()) * 1000 * d.settings.CPUOvercommit),
		MemoryBytes: int64(float64(memory) * d.settings.MemoryOvercommit),
		Logger:      d.logger.With("service", "vm"),
	}
	if d.cluster != nil {
		options.Secrets = conn
		// Elsewhere nobody publishes the Pods that are reserved.
		if d.cluster.own != nil {
			options.Pods = conn
		}
	}
	service, err := vm.New(ctx, options)
	if err != nil {
		return serve.Part{}, err
	}
	accelerator, reason := service.Accelerator()
	d.report.fact("accelerator", accelerator, reason)
	return service.Part(), nil
}

func (d *daemon) newSnapshot(_ context.Context, conn *grpc.ClientConn) (serve.Part, error) {
	options := snapshot.Options{
		Etcd: d.store.Client(), Prefix: snapshot.DefaultPrefix, Disks: conn, Images: conn, Machines: conn, Networks: conn,
		Logger: d.logger.With("service", "snapshot"),
	}
	if d.cluster != nil {
		options.Secrets = conn
	}
	service, err := snapshot.New(options)
	if err != nil {
		return serve.Part{}, err
	}
	return service.Part(), nil
}

func nodeNames(count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("node-%d", i+1)
	}
	return names
}

// memoryBytes is what the machine has.
func memoryBytes() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, err
	}
	return info.Totalram * uint64(info.Unit), nil
}

// startGateway opens the REST door. It is nobody to the services: it hands on
// its callers' credentials.
func (d *daemon) startGateway(context.Context) (string, error) {
	conn, err := d.identity.dial(d.peers.target)
	if err != nil {
		return "", err
	}
	d.stack.push("connection of the gateway", conn.Close)
	options := gateway.Options{
		Listener: d.doors.rest, TLS: d.identity.serverTLS(),
		Connect: func(string) (grpc.ClientConnInterface, error) { return conn, nil },
		Logger:  d.logger.With("part", "gateway"),
	}
	d.stack.run("REST gateway", func(ctx context.Context) error { return gateway.Run(ctx, options) })
	return d.doors.endpoints[home.REST], nil
}
