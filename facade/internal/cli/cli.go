// Package cli is the orlop command: it runs Orlop on this machine, and does for
// VMs what kubectl can't.
//
// It asks the services over gRPC as the user. It has no rule of its own.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"orlop.dev/facade/home"
)

// ErrNotRunning says that there is no daemon to talk to.
var ErrNotRunning = errors.New("Orlop is not running here: orlop up starts it") //nolint:staticcheck // a name

// exitNotRunning is `orlop status`'s code, as that of systemctl.
const exitNotRunning = 3

// New returns the command with its arguments, the first of which is the name
// that it was called by: under some names it is another program's part (see
// program).
func New(version string, args []string) *cobra.Command {
	c := &client{}
	root := program(c, filepath.Base(args[0]), args[1:])
	root.Version = version
	root.SilenceUsage, root.SilenceErrors = true, true
	root.PersistentFlags().StringVar(&c.dir, "home", home.Default(), "state folder ($ORLOP_HOME)")
	return root
}

// Fail tells of an error and returns the process's exit code.
func Fail(out io.Writer, err error) int {
	if ended := new(exec.ExitError); errors.As(err, &ended) {
		return ended.ExitCode() // of a program that ran in our stead, and told
	}
	fmt.Fprintln(out, "orlop:", err)
	if errors.Is(err, ErrNotRunning) {
		return exitNotRunning
	}
	return 1
}
