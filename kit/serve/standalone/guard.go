package standalone

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/clock"

	"orlop.dev/kit/auth"
	authkubernetes "orlop.dev/kit/auth/kubernetes"
	"orlop.dev/kit/auth/tokenfile"
)

// errNoGuard says that nothing tells who may come in.
var errNoGuard = errors.New("one of --kubeconfig and --token-file is required: it says who may do what")

// guard is who knows users and their rights: a Kubernetes API, or a file.
type guard struct {
	tokenFile, kubeconfig string
}

func (g *guard) bind(fs *pflag.FlagSet) {
	fs.StringVar(&g.kubeconfig, "kubeconfig", "", "kubeconfig of the Kubernetes API that knows users and their rights")
	fs.StringVar(&g.tokenFile, "token-file", "", "file of tokens, users and groups, where there is no Kubernetes API")
}

func (g *guard) open() (*auth.Guard, error) {
	switch {
	case g.kubeconfig == "" && g.tokenFile == "", g.kubeconfig != "" && g.tokenFile != "":
		return nil, errNoGuard
	case g.tokenFile != "":
		users, err := tokenfile.Load(g.tokenFile)
		if err != nil {
			return nil, err
		}
		return auth.NewGuard(users, tokenfile.Rights{}), nil
	}
	config, err := clientcmd.BuildConfigFromFlags("", g.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", g.kubeconfig, err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	rights := authkubernetes.New(client, clock.RealClock{})
	return auth.NewGuard(rights, rights), nil
}
