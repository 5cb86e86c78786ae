// Command operator is the kubectl door in a process of its own.
package main

import (
	"context"
	"errors"

	"orlop.dev/facade/kubernetes"
	"orlop.dev/kit/serve/standalone"
)

func main() { standalone.Main(run) }

func run(ctx context.Context, arguments []string) (err error) {
	logger, peers := newLogger(), newPeers()
	var s settings
	if err := standalone.Parse("operator", arguments, logger, s.bind, peers.Bind); err != nil {
		return err
	}
	connections, err := peers.Dial()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, connections.Close()) }()
	options, err := s.operator(ctx)
	if err != nil {
		return err
	}
	options.Connect, options.Logger = byKind(connections), logger
	operator, err := kubernetes.New(options)
	if err != nil {
		return err
	}
	if err := operator.Install(ctx); err != nil {
		return err
	}
	return operator.Run(ctx)
}
