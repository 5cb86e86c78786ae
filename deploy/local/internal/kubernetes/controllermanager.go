package kubernetes

import "strings"

const (
	controllerManagerName = "kube-controller-manager"
	controllerManagerUser = "system:kube-controller-manager" // the API's own roles are bound to this name
)

// controllers are those that make objects behave with no node to run anything: each says what would be missing without it.
var controllers = []string{
	"garbage-collector-controller",             // objects go with their owners
	"namespace-controller",                     // a namespace can be deleted
	"serviceaccount-controller",                // each namespace has the account that admission gives to pods
	"serviceaccount-token-controller",          // tokens in Secrets
	"root-ca-certificate-publisher-controller", // pods and tools find the API's CA
	"resourcequota-controller",                 // quotas count
	"endpointslice-controller",                 // Services lead to the Pods of VMs
	"clusterrole-aggregation-controller",       // admin, edit and view take in the roles for custom resources
}

// controllerManagerArguments is the command line of kube-controller-manager.
func controllerManagerArguments(dir folder) []string {
	return []string{
		controllerManagerMarker(dir),
		"--controllers=" + strings.Join(controllers, ","),
		"--use-service-account-credentials", // each controller has the rights of its own account only
		"--leader-elect=false",              // the folder's lock has elected it
		"--secure-port=0",                   // it serves nothing that anybody asks for
		"--service-account-private-key-file=" + dir.path(accountKeyFile),
		"--root-ca-file=" + dir.path(authorityCertFile),
		"--profiling=false",
	}
}

// controllerManagerMarker is the argument by which the kube-controller-manager of a folder is known from any other.
func controllerManagerMarker(dir folder) string { return "--kubeconfig=" + dir.path(managerKubeconfig) }
