package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

const headerTimeout = 10 * time.Second

// newDevelopment has what the demo and the tests need, and no user.
func newDevelopment() *cobra.Command {
	command := &cobra.Command{Use: "dev", Hidden: true, Short: "Tools for the demo and for tests"}
	var address string
	serve := &cobra.Command{
		Use: "serve DIR", Short: "Serve a folder by HTTP, with ranges, until it is interrupted",
		Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return serveFolder(command.Context(), address, args[0])
		},
	}
	serve.Flags().StringVar(&address, "address", "127.0.0.1:18480", "host:port to listen on")
	command.AddCommand(serve)
	return command
}

func serveFolder(ctx context.Context, address, dir string) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("serve %s: %w", dir, err)
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: headerTimeout}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
