package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"orlop.dev/facade/home"
	"orlop.dev/facade/internal/cli/daemon"
	"orlop.dev/facade/internal/cli/guest"
)

func newDown(c *client) *cobra.Command {
	var guests bool
	timeout, grace := 2*time.Minute, 30*time.Second
	command := &cobra.Command{
		Use:   "down",
		Short: "Stop Orlop; guests run on unless asked otherwise",
		Long: `Stops the daemon. Guests run on without it and are found again by the next orlop up.
With --guests they are switched off too, and their network goes; those that
should run by their runPolicy start again with the next orlop up.`,
		Args: cobra.NoArgs,
	}
	command.Flags().BoolVar(&guests, "guests", false, "switch the guests off, too")
	command.Flags().DurationVar(&grace, "grace", grace, "how long guests may take to shut down before they are switched off hard")
	command.Flags().DurationVar(&timeout, "timeout", timeout, "how long to wait for the daemon")
	command.RunE = func(command *cobra.Command, _ []string) error {
		h, err := c.home()
		if err != nil {
			return err
		}
		if err := stopDaemon(command, h, timeout); err != nil {
			return err
		}
		if guests {
			if err := stopGuests(command, h, grace); err != nil {
				return err
			}
			return errors.Join(removeNetwork(h), removeGroups(h))
		}
		return countGuests(command, h)
	}
	return command
}

func stopDaemon(command *cobra.Command, h home.Home, timeout time.Duration) error {
	running, err := daemon.Find(h)
	if err != nil {
		return err
	}
	if running == nil {
		fmt.Fprintln(command.OutOrStdout(), "Orlop is not running")
		return nil
	}
	ctx, cancel := context.WithTimeout(command.Context(), timeout)
	defer cancel()
	if err := running.Stop(ctx); err != nil {
		return err
	}
	fmt.Fprintln(command.OutOrStdout(), "Orlop is stopped")
	return nil
}

// stopGuests presses all power buttons at once.
func stopGuests(command *cobra.Command, h home.Home, grace time.Duration) error {
	guests, err := guest.Find(h.Machines())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(command.Context(), grace)
	defer cancel()
	results := make(chan error, len(guests))
	for _, g := range guests {
		go func() {
			killed, err := g.PowerOff(ctx)
			how := "shut down"
			if killed {
				how = "was switched off hard"
			}
			if err == nil {
				fmt.Fprintf(command.OutOrStdout(), "guest %s %s\n", filepath.Base(g.Dir), how)
			}
			results <- errors.Join(err, g.Close())
		}()
	}
	for range guests {
		err = errors.Join(err, <-results)
	}
	return err
}

// removeNetwork takes away the name of the guests' network namespace. With no
// guest in it, bridge and taps go, too. The lock keeps a daemon from beginning to
// use it meanwhile.
func removeNetwork(h home.Home) (err error) {
	path := h.NetworkNamespace()
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := h.Lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	// EINVAL: a file on which nothing is mounted is what a killed process left.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove the guests' network namespace %s: %w", path, err)
	}
	return os.Remove(path)
}

// removeGroups takes away the control groups of guests that are gone: the daemon,
// which made them, wrote down where.
func removeGroups(h home.Home) error {
	note := filepath.Join(h.Machines(), "cgroups")
	content, err := os.ReadFile(note)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dir := strings.TrimSpace(string(content))
	groups, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Remove(note) // the host was started anew
	}
	for _, group := range groups {
		if group.IsDir() {
			err = errors.Join(err, os.Remove(filepath.Join(dir, group.Name())))
		}
	}
	return errors.Join(err, os.Remove(dir), os.Remove(note))
}

func countGuests(command *cobra.Command, h home.Home) error {
	guests, err := guest.Find(h.Machines())
	if err != nil {
		return err
	}
	for _, g := range guests {
		err = errors.Join(err, g.Close())
	}
	if len(guests) > 0 {
		fmt.Fprintf(command.OutOrStdout(), "guests that run on: %d (orlop down --guests switches them off)\n", len(guests))
	}
	return err
}
