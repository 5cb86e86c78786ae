// Command orlop runs and uses Orlop on this machine.
package main

import (
	"context"
	"os"

	"orlop.dev/facade/internal/cli"
	"orlop.dev/kit/serve"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := serve.SignalContext(context.Background())
	defer stop()
	if err := cli.New(version, os.Args).ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(cli.Fail(os.Stderr, err)) //nolint:gocritic // stop was called
	}
}
