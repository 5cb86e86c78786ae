// Command gateway is the REST door in a process of its own.
package main

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"orlop.dev/facade/gateway"
	"orlop.dev/kit/serve/standalone"
)

func main() { standalone.Main(run) }

func run(ctx context.Context, arguments []string) (err error) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "gateway")
	peers := standalone.NewAnonymousPeers(
		standalone.Peer{Name: "image"}, standalone.Peer{Name: "disk"},
		standalone.Peer{Name: "network"}, standalone.Peer{Name: "vm"},
		standalone.Peer{Name: "snapshot"},
	)
	var s settings
	if err := standalone.Parse("gateway", arguments, logger, s.bind, peers.Bind); err != nil {
		return err
	}
	connections, err := peers.Dial()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, connections.Close()) }()
	listener, identity, err := s.listen(ctx)
	if err != nil {
		return err
	}
	return gateway.Run(ctx, gateway.Options{
		Listener: listener, TLS: identity, Connect: connections.ToService, Logger: logger,
	})
}
