package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"

	"github.com/spf13/cobra"

	"orlop.dev/facade/internal/stream"
)

// viewer is a program that shows a VNC server, and how it is told which.
type viewer struct {
	program   string
	arguments func(host, port string) []string
}

func viewers() []viewer {
	twoColons := func(host, port string) []string { return []string{host + "::" + port} }
	url := func(host, port string) []string { return []string{"vnc://" + net.JoinHostPort(host, port)} }
	return []viewer{
		{"xtigervncviewer", twoColons}, {"vncviewer", twoColons}, {"remote-viewer", url}, {"vinagre", url}, {"krdc", url},
	}
}

// errViewerLeft ends the proxy with its viewer.
var errViewerLeft = errors.New("the viewer was closed")

func newVNC(c *client) *cobra.Command {
	var address string
	var port uint16
	var proxyOnly bool
	command := &cobra.Command{
		Use:   "vnc VM[.NAMESPACE]",
		Short: "Show a VM's screen in this machine's VNC viewer",
		Long: `Listens on a local port, leads it to the VM's screen, and starts a VNC viewer for
it: TigerVNC, remote-viewer, Vinagre or KRDC, whichever is there. Ends with the
viewer. Without one, or with --proxy-only, it tells the port and runs until Ctrl+C.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: c.completeVM(),
	}
	c.bindNamespace(command)
	command.Flags().StringVar(&address, "address", "127.0.0.1", "local address to listen on; there is no password: who reaches it has the screen")
	command.Flags().Uint16Var(&port, "port", 0, "local port (default a free one)")
	command.Flags().BoolVar(&proxyOnly, "proxy-only", false, "start no viewer")
	command.RunE = func(command *cobra.Command, args []string) error {
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		vm := c.parse(args[0]).far()
		// Asked once, so that a refusal is told before a viewer starts.
		screen, err := stream.Screen(command.Context(), conn, vm)
		if err != nil {
			return err
		}
		_ = screen.Close()
		ctx, cancel := context.WithCancelCause(command.Context())
		defer cancel(nil)
		f := forwarder{out: command.OutOrStdout(), note: command.ErrOrStderr()}
		if show, found := findViewer(); found && !proxyOnly {
			f.listening = func(at net.Addr) { go func() { cancel(show.run(ctx, at)) }() }
		} else if !proxyOnly {
			fmt.Fprintln(command.ErrOrStderr(), "No VNC viewer was found (tigervnc-viewer and virt-viewer have one): connect yours to this port.")
		}
		err = f.run(ctx, []forward{{
			local: net.JoinHostPort(address, strconv.Itoa(int(port))), to: "the screen of " + args[0],
			open: func(ctx context.Context) (*stream.Stream, error) { return stream.Screen(ctx, conn, vm) },
		}})
		if cause := context.Cause(ctx); err == nil && command.Context().Err() == nil && !errors.Is(cause, errViewerLeft) {
			return cause
		}
		return err
	}
	return command
}

func findViewer() (viewer, bool) {
	for _, candidate := range viewers() {
		if _, err := exec.LookPath(candidate.program); err == nil {
			return candidate, true
		}
	}
	return viewer{}, false
}

// run shows the server until the user closes the viewer.
func (v viewer) run(ctx context.Context, server net.Addr) error {
	host, port, err := net.SplitHostPort(server.String())
	if err != nil {
		return err
	}
	said, err := exec.CommandContext(ctx, v.program, v.arguments(host, port)...).CombinedOutput()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s: %w\n%s", v.program, err, said)
	}
	return errViewerLeft
}
