package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"orlop.dev/facade/home"
	"orlop.dev/facade/internal/cli/daemon"
	"orlop.dev/facade/internal/cli/preflight"
)

// ErrNotPossible says that something is missing without which nothing works.
var ErrNotPossible = errors.New("Orlop can't run on this machine yet: see above") //nolint:staticcheck // a name

func newUp(c *client) *cobra.Command {
	settings := home.DefaultSettings()
	timeout := 5 * time.Minute
	command := &cobra.Command{
		Use:   "up",
		Short: "Start Orlop on this machine and wait until it is ready",
		Long: `Looks at the machine, starts the daemon (orlopd), waits until it is ready and
tells where its doors are. If it runs already, it is found. Each flag can be
given by a variable, such as ORLOP_NETWORK=user, or in a file of settings:
config.yaml in the state folder, or the one that --config names, with lines such
as publishAddress: 0.0.0.0. What is given twice is taken from the flag, else from
the variable.`,
		Args: cobra.NoArgs,
	}
	flags := pflag.NewFlagSet("up", pflag.ContinueOnError)
	settings.Bind(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "home" { // every command has it
			command.Flags().AddFlag(f)
		}
	})
	command.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait")
	command.RunE = func(command *cobra.Command, _ []string) error {
		if config := flags.Lookup("config"); config.Changed {
			// The daemon runs in another folder.
			path, err := filepath.Abs(settings.Config)
			if err != nil {
				return err
			}
			settings.Config = path
		}
		given := changed(flags)
		settings.Home = c.dir
		if err := settings.Read(flags); err != nil {
			return err
		}
		if err := settings.Validate(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(command.Context(), timeout)
		defer cancel()
		u := up{out: command.OutOrStdout(), settings: settings, arguments: given, version: command.Root().Version}
		return u.run(ctx)
	}
	return command
}

// changed returns the flags that were given, as arguments. The state folder is
// the environment's.
func changed(flags *pflag.FlagSet) []string {
	var arguments []string
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Changed || f.Name == "home" {
			return
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			for _, value := range list.GetSlice() {
				arguments = append(arguments, "--"+f.Name+"="+value)
			}
			return
		}
		arguments = append(arguments, "--"+f.Name+"="+f.Value.String())
	})
	return arguments
}

// up is one `orlop up`.
type up struct {
	out       io.Writer
	settings  home.Settings
	arguments []string
	version   string
}

func (u up) run(ctx context.Context) error {
	h, err := home.Locate(u.settings.Home)
	if err != nil {
		return err
	}
	running, err := daemon.Find(h)
	if err != nil {
		return err
	}
	if running != nil {
		fmt.Fprintf(u.out, "Orlop runs already (process %d)", running.PID)
		if len(u.arguments) > 0 {
			fmt.Fprint(u.out, "; the flags are of no effect until orlop down and orlop up")
		}
		fmt.Fprintln(u.out)
	} else if running, err = u.start(ctx, h); err != nil {
		return err
	}
	if err := running.Follow(ctx, u.show); err != nil {
		return err
	}
	endpoints, err := h.ReadEndpoints()
	if err != nil {
		return err
	}
	// What the daemon said of itself may be long ago.
	if err := knock(ctx, h, endpoints[home.REST]); err != nil {
		return fmt.Errorf("orlopd (process %d) runs, but its REST door https://%s does not answer: %w; see the end of %s, or start it anew with orlop down and orlop up",
			running.PID, endpoints[home.REST], err, h.DaemonLog())
	}
	return u.doors(h, endpoints)
}

func (u up) start(ctx context.Context, h home.Home) (*daemon.Process, error) {
	possible := true
	for _, f := range (preflight.Machine{Home: string(h), QEMU: u.settings.QEMU}).Check(ctx) {
		mark := map[preflight.Severity]string{preflight.Good: "ok", preflight.Limited: "note", preflight.Fatal: "FAIL"}[f.Severity]
		fmt.Fprintf(u.out, "%-5s %s: %s\n", mark, f.Subject, f.Sentence)
		possible = possible && f.Severity != preflight.Fatal
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !possible {
		return nil, ErrNotPossible
	}
	binary, err := daemon.Binary()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(u.out, "starting in %s (log: %s)\n", h, h.DaemonLog())
	return daemon.Start(h, binary, u.arguments)
}

func (u up) show(s home.Step) {
	fmt.Fprintf(u.out, "%6.1f s  %-24s %s\n", s.Took.Seconds(), s.Name, s.Detail)
}

// doors tells where one comes in.
func (u up) doors(h home.Home, endpoints home.Endpoints) error {
	status, err := h.ReadStatus()
	if err != nil {
		return err
	}
	for _, fact := range status.Facts {
		fmt.Fprintf(u.out, "%s: %s. %s\n", fact.Name, fact.Value, fact.Reason)
	}
	fmt.Fprintf(u.out, "\nOrlop is ready. Its doors:\n")
	if _, err := os.Stat(h.Kubeconfig()); err == nil && endpoints[home.Webhook] != "" {
		fmt.Fprintf(u.out, "  kubectl  export KUBECONFIG=%s (or: orlop kubectl get vm)\n", h.Kubeconfig())
	}
	fmt.Fprintf(u.out, "  REST     https://%s (try /docs)\n", endpoints[home.REST])
	fmt.Fprintf(u.out, "  gRPC     %s\n", endpoints[home.GRPC])
	fmt.Fprintf(u.out, "  DVCR     https://%s\n", endpoints[home.DVCR])
	fmt.Fprintf(u.out, "The token for REST and gRPC is in %s, their CA in %s.\n", relative(h.Token()), relative(h.CACertificate()))
	return nil
}

// relative shortens a path that is below the working directory.
func relative(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if short, err := filepath.Rel(here, path); err == nil && len(short) < len(path) {
		return short
	}
	return path
}
