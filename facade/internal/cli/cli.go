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

	"github.com/spf13/cobra"

	"orlop.dev/facade/home"
)

const groupMachine, groupVM, groupData = "machine", "vm", "data"

// ErrNotRunning says that there is no daemon to talk to.
var ErrNotRunning = errors.New("Orlop is not running here: orlop up starts it") //nolint:staticcheck // a name

// exitNotRunning is `orlop status`'s code, as that of systemctl.
const exitNotRunning = 3

// New returns the command.
func New(version string) *cobra.Command {
	c := &client{}
	root := &cobra.Command{
		Use:   "orlop",
		Short: "Virtual machines on this machine, as Kubernetes objects",
		Long: `Orlop runs virtual machines on this machine and serves them by kubectl, REST and gRPC.

  orlop up                     start everything
  orlop kubectl get vm         the kubectl door
  orlop console linux-vm       a VM's serial console`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&c.dir, "home", home.Default(), "state folder ($ORLOP_HOME)")
	root.AddGroup(&cobra.Group{ID: groupMachine, Title: "Orlop on this machine:"}, &cobra.Group{ID: groupVM, Title: "Virtual machines:"},
		&cobra.Group{ID: groupData, Title: "Images and disks:"})
	root.AddCommand(
		newUp(c, version), newDown(c), newStatus(c), newKubectl(c),
		newConsole(c), newSSH(c), newConnect(c), newUpload(c), newDownload(c), newDisk(c), newDevelopment(),
	)
	for _, verb := range verbs() {
		root.AddCommand(newOperation(c, verb))
	}
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
