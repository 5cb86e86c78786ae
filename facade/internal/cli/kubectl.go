package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"
)

func newKubectl(c *client) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [ARGUMENTS]",
		Short: "Run kubectl with this machine's kubeconfig",
		// All that follows is kubectl's: this command has no flags of its own.
		DisableFlagParsing: true,
		RunE: func(command *cobra.Command, args []string) error {
			h, err := c.home()
			if err != nil {
				return err
			}
			if _, err := os.Stat(h.Kubeconfig()); err != nil {
				return fmt.Errorf("%w: %w", ErrNotRunning, err)
			}
			kubectl, err := beside("kubectl")
			if err != nil {
				return err
			}
			child := exec.CommandContext(command.Context(), kubectl, args...)
			child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
			child.Env = append(os.Environ(), "KUBECONFIG="+h.Kubeconfig())
			child.Cancel = func() error { return child.Process.Signal(os.Interrupt) }
			return child.Run()
		},
	}
}

// beside finds a program in this program's folder, else in PATH.
func beside(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return exec.LookPath(name)
}
