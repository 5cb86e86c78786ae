package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

const (
	programKubectl           = "kubectl-v"          // kubectl's name for its plugin "v"
	programKubectlCompletion = "kubectl_complete-v" // and for what completes it
	programPlatform          = "d8"                 // the platform's own command, as its guide has it
)

// program is the command under the name that it was called by.
func program(c *client, name string, args []string) *cobra.Command {
	switch name {
	case programKubectl, programKubectlCompletion:
		root := newMachines(c, "kubectl v")
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl v"}
		if name == programKubectlCompletion {
			args = append([]string{cobra.ShellCompRequestCmd}, args...)
		}
		root.SetArgs(args)
		return root
	case programPlatform:
		root := &cobra.Command{
			Use:   programPlatform,
			Short: "The commands of the platform's guide, on this machine",
			Long: `Does what the guide's commands say, on this machine: "d8 v" is "orlop", "d8 k" is
"orlop kubectl".`,
		}
		kubectl := newKubectl(c)
		kubectl.Use, kubectl.Aliases = "k [ARGUMENTS]", []string{"kubectl"}
		root.AddCommand(newMachines(c, "d8 v"), kubectl)
		root.SetArgs(args)
		return root
	}
	root := &cobra.Command{
		Use:   "orlop",
		Short: "Virtual machines on this machine, as Kubernetes objects",
		Long: `Orlop runs virtual machines on this machine and serves them by kubectl, REST and gRPC.

  orlop up                     start everything
  orlop kubectl get vm         the kubectl door
  orlop console linux-vm       a VM's serial console`,
	}
	fill(root, slices.Concat([]group{theMachine(c)}, theObjects(c)))
	root.AddCommand(newDevelopment())
	root.SetArgs(args)
	return root
}

// newMachines is what other programs have of this one, under the name that they
// have for it.
func newMachines(c *client, name string) *cobra.Command {
	command := &cobra.Command{
		Use:     "v",
		Aliases: []string{"virtualization"},
		Short:   "Virtual machines, their images and disks",
	}
	fill(command, theObjects(c))
	rename(command, name)
	return command
}

// rename has all examples say the name by which the program was called.
func rename(command *cobra.Command, name string) {
	command.Example = strings.ReplaceAll(command.Example, "orlop ", name+" ")
	for _, child := range command.Commands() {
		rename(child, name)
	}
}

// group is commands that stand together in the help.
type group struct {
	id, title string
	commands  []*cobra.Command
}

func fill(parent *cobra.Command, groups []group) {
	for _, g := range groups {
		parent.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, command := range g.commands {
			command.GroupID = g.id
			parent.AddCommand(command)
		}
	}
}

func theMachine(c *client) group {
	return group{"machine", "Orlop on this machine:", []*cobra.Command{newUp(c), newDown(c), newStatus(c), newKubectl(c)}}
}

func theObjects(c *client) []group {
	vms := []*cobra.Command{newConsole(c), newVNC(c), newSSH(c), newSCP(c), newPortForward(c), newPlan(c), newGuest(c), newExplain(c)}
	for _, verb := range verbs() {
		vms = append(vms, newOperation(c, verb))
	}
	return []group{
		{"vm", "Virtual machines:", vms},
		{"node", "Nodes:", []*cobra.Command{newNode(c), newRebalance(c)}},
		{"data", "Images and disks:", []*cobra.Command{newUpload(c), newDownload(c), newDisk(c)}},
	}
}
