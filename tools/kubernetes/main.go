// Command kube is the Kubernetes that Orlop runs on one machine: kube-apiserver, kube-controller-manager, kube-proxy and kubectl in one
// binary, because they share nearly all of their code. The name it is called by, or else its first argument, says which of them it is.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	_ "time/tzdata" // the machine may have no time zone data, which the API server judges CronJobs by

	"github.com/spf13/cobra"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's log-in methods, for clusters elsewhere
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // the servers' client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // the servers' build info metric
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlerror "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
)

const usage = "usage: kube {kube-apiserver|kube-controller-manager|kube-proxy|kubectl} [argument]..."

// program is one of the commands that the binary holds. It returns its exit code, or ends the process itself.
type program func() int

func main() {
	run, args := choose(os.Args)
	if run == nil {
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	os.Args = args // all of them parse the process's arguments by themselves
	os.Exit(run())
}

// choose finds the program by the name that the binary was called by, then by the first argument, which it takes away.
func choose(args []string) (program, []string) {
	for _, rest := range [][]string{args, args[min(1, len(args)):]} {
		if len(rest) == 0 {
			break
		}
		if run := lookup(filepath.Base(rest[0])); run != nil {
			return run, rest
		}
	}
	return nil, nil
}

func lookup(name string) program {
	switch name {
	case "kube-apiserver":
		return func() int { return runServer(apiserver.NewAPIServerCommand()) }
	case "kube-controller-manager":
		return func() int { return runServer(controllermanager.NewControllerManagerCommand()) }
	case "kube-proxy":
		return func() int { return runServer(proxy.NewProxyCommand()) }
	case "kubectl":
		return runKubectl
	default:
		return nil
	}
}

func runServer(command *cobra.Command) int { return cli.Run(command) }

func runKubectl() int {
	// The level must be known before the command exists: building it already looks for plugins and reads kuberc. A wrong level is ignored
	// here, because the command reports it by itself.
	_, _ = logs.GlogSetter(kubectl.GetLogVerbosity(os.Args))
	kubectlerror.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()))
	return 0
}
