// Command orlopd runs all of Orlop on this machine. `orlop up` starts it.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"orlop.dev/deploy/local"
	"orlop.dev/facade/home"
	"orlop.dev/kit/serve"
)

// version is set by the linker.
var version = "dev"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "orlopd:", err)
		os.Exit(1)
	}
}

func run() error {
	settings := home.DefaultSettings()
	flags := pflag.NewFlagSet("orlopd", pflag.ContinueOnError)
	settings.Bind(flags)
	if err := flags.Parse(os.Args[1:]); errors.Is(err, pflag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if err := settings.Read(flags); err != nil {
		return err
	}
	ctx, stop := serve.SignalContext(context.Background())
	defer stop()
	return local.Run(ctx, settings, version, newLogger(settings.Verbose))
}

// newLogger gives the libraries of Kubernetes, which have loggers of their own,
// the same one.
func newLogger(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	slog.SetDefault(logger)
	klog.SetSlogLogger(logger)
	ctrl.SetLogger(logr.FromSlogHandler(logger.Handler()))
	return logger
}
