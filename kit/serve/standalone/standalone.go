// Package standalone is what the main of a service is made of when the service
// has a process of its own: flags, etcd, the peers' connections, the guard, and
// an orderly end. All services' processes are alike because of it.
//
// It must not know which services there are: a [Command] says that.
package standalone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/pflag"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"orlop.dev/kit/serve"
)

// Command describes a service's process.
type Command struct {
	// Name is the process's, such as disk-service. Each flag may be given as the
	// variable DISK_SERVICE_NAME_OF_FLAG instead.
	Name string
	// Prefix is where the service's objects are in etcd, if no flag says else.
	Prefix string
	// Peers are the services that this one calls.
	Peers []Peer
	// Flags adds flags of the service's own. It may be nil.
	Flags func(*pflag.FlagSet)
	// New makes the service, after the flags were read.
	New func(context.Context, Host) (serve.Part, error)
}

// Host is what a process gives to its service. The process closes it.
type Host struct {
	Etcd   *clientv3.Client
	Prefix string
	Logger *slog.Logger

	connections Connections
}

// Peer is the connection to a service that the command lists; nil where it is
// optional and has no address.
func (h Host) Peer(name string) grpc.ClientConnInterface { return h.connections.To(name) }

// Main runs a process until SIGINT or SIGTERM, and exits with 1 if it failed.
func Main(run func(ctx context.Context, arguments []string) error) {
	ctx, stop := serve.SignalContext(context.Background())
	defer stop()
	err := run(ctx, os.Args[1:])
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // The process ends, and stop with it.
	}
}

// Run reads the arguments and serves until ctx ends. It blocks. The error is
// pflag.ErrHelp where somebody asked for help and got it.
func (c Command) Run(ctx context.Context, arguments []string) (err error) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", c.Name)
	server, storage, access := serve.Defaults(), &store{prefix: c.Prefix}, new(guard)
	peers := NewPeers(c.Peers...)
	flags := []func(*pflag.FlagSet){server.Bind, storage.bind, peers.Bind, access.bind}
	if c.Flags != nil {
		flags = append(flags, c.Flags)
	}
	if err := Parse(c.Name, arguments, logger, flags...); err != nil {
		return fmt.Errorf("%s: %w", c.Name, err)
	}
	host := Host{Prefix: storage.prefix, Logger: logger}
	if host.connections, err = peers.Dial(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.connections.Close()) }()
	if host.Etcd, err = storage.open(); err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	defer func() { err = errors.Join(err, host.Etcd.Close()) }()
	config := serve.Config{Options: server, Name: c.Name, Logger: logger}
	if config.Guard, err = access.open(); err != nil {
		return err
	}
	part, err := c.New(ctx, host)
	if err != nil {
		return err
	}
	return serve.Run(ctx, config, part)
}

// Parse reads flags from arguments, those that are not among them from the
// environment, the rest from a file of settings if one is named, and prints what came of it. No flag holds a secret: those are in
// files.
func Parse(name string, arguments []string, logger *slog.Logger, bind ...func(*pflag.FlagSet)) error {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	for _, add := range bind {
		add(fs)
	}
	settings := fs.String("config", "", "YAML file of settings, which may have those of other services too")
	if err := fs.Parse(arguments); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%q: this process takes flags alone", fs.Args())
	}
	if err := serve.ApplyEnvironment(fs, strings.ReplaceAll(name, "-", "_")); err != nil {
		return err
	}
	if *settings != "" {
		others, err := serve.ApplySettings(fs, *settings)
		if err != nil {
			return err
		}
		if len(others) > 0 {
			logger.Info("settings that this service doesn't have", "file", *settings, "settings", others)
		}
	}
	var options []any
	fs.VisitAll(func(f *pflag.Flag) { options = append(options, slog.String(f.Name, f.Value.String())) })
	logger.Info("options", options...)
	return nil
}
