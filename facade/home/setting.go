package home

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"orlop.dev/kit/serve"
)

// Ports at which the doors are unless others are asked for. One that somebody
// has is replaced by a free one, which stays the same from start to start.
const (
	DefaultRESTPort       = 18443
	DefaultGRPCPort       = 18444
	DefaultRegistryPort   = 18445
	DefaultWebhookPort    = 18446
	DefaultKubernetesPort = 16443
)

// Values of Settings.Kubernetes.
const (
	KubernetesLocal = "local"
	KubernetesNone  = "none"
)

// Values of Settings.NetworkMode.
const (
	NetworkAuto = "auto"
	NetworkTap  = "tap"
	NetworkUser = "user"
)

// PublishNowhere is the value of Settings.PublishAddress for no node ports.
const PublishNowhere = "none"

// configFile is the file of settings in the state folder.
const configFile = "config.yaml"

// Settings are what a user decides about the daemon. None of them is secret.
type Settings struct {
	Home string
	// Config is a file of settings that flags and environment say nothing of; the
	// state folder's own, if it is there, where it is empty.
	Config string
	// Ports; 0 means the default's or another that is free.
	RESTPort, GRPCPort, RegistryPort, KubernetesPort uint16
	// MetricsPort is that of metrics and profiles, which ask nobody who they are;
	// 0 means none.
	MetricsPort uint16
	// Kubernetes is whether an API of our own runs.
	Kubernetes string
	// Kubeconfig reaches a cluster of the user's, instead of one of our own.
	Kubeconfig string
	// Guests' network.
	VirtualMachineCIDRs []string
	NetworkMode         string
	// PublishAddress is where node ports of Services are on this machine;
	// PublishNowhere for none. LoadBalancerCIDR are addresses of this machine for
	// load balancers and Ingresses; empty for none.
	PublishAddress, LoadBalancerCIDR string
	// Ports of Ingresses.
	IngressHTTPPort, IngressHTTPSPort uint16
	// Simulated nodes, and how much of this machine each may promise.
	Nodes                           int
	CPUOvercommit, MemoryOvercommit float64
	// DiskOvercommit is how many times the free space disks may be promised; 0 is
	// no limit.
	DiskOvercommit float64
	// DefaultStorageClass is for disks that name none; the cluster's default where
	// it is empty.
	DefaultStorageClass string
	// DefaultImageStorageClass is the same for images that are kept on a class.
	DefaultImageStorageClass string
	// AllowImageSources are networks that images may be fetched from although
	// they are this machine's own or private.
	AllowImageSources []string
	// QEMU is the emulator: a path, or a name in PATH.
	QEMU string
	// MigrationBandwidth is how fast a live migration sends memory, in bytes a
	// second, as a quantity; 0 is as fast as it goes.
	MigrationBandwidth string
	// MigrationProgressTimeout is how long a migration may come no nearer to its
	// end, MigrationCompletionTimeout how long it may take for each GiB of memory.
	MigrationProgressTimeout, MigrationCompletionTimeout time.Duration
	// RebalanceEvery is how often the load of the nodes is evened out; 0 is never.
	RebalanceEvery time.Duration
	// CopyLocalDisks lets VMs move whose disks are of a class that binds them to a
	// node: the disks are copied.
	CopyLocalDisks bool
	// KeepOldQEMU leaves VMs that an older QEMU runs where they are.
	KeepOldQEMU bool
	// Verbose logs details.
	Verbose bool
}

// DefaultSettings returns what flags start from.
func DefaultSettings() Settings {
	return Settings{
		Home: Default(), Kubernetes: KubernetesLocal, NetworkMode: NetworkAuto,
		VirtualMachineCIDRs: []string{"10.66.10.0/24", "10.66.20.0/24"},
		PublishAddress:      "127.0.0.1", LoadBalancerCIDR: "127.66.0.0/24", IngressHTTPPort: 80, IngressHTTPSPort: 443,
		Nodes: 2, CPUOvercommit: 4, MemoryOvercommit: 1, DiskOvercommit: 4,
		QEMU: "qemu-system-x86_64", MigrationBandwidth: "640Mi",
		MigrationProgressTimeout: 150 * time.Second, MigrationCompletionTimeout: 800 * time.Second,
	}
}

// Bind makes flags of the settings, with the present values as defaults.
func (s *Settings) Bind(fs *pflag.FlagSet) {
	port := func(p *uint16, door string, number int) {
		fs.Uint16Var(p, door+"-port", *p, fmt.Sprintf("port of %s on 127.0.0.1 (default %d, or a free one if it is taken)", door, number))
	}
	fs.StringVar(&s.Home, "home", s.Home, "state folder ($ORLOP_HOME)")
	fs.StringVar(&s.Config, "config", s.Config, "YAML file of settings (default config.yaml in the state folder, if it is there)")
	port(&s.RESTPort, "rest", DefaultRESTPort)
	port(&s.GRPCPort, "grpc", DefaultGRPCPort)
	port(&s.RegistryPort, "dvcr", DefaultRegistryPort)
	port(&s.KubernetesPort, "kubernetes", DefaultKubernetesPort)
	fs.Uint16Var(&s.MetricsPort, "metrics-port", s.MetricsPort, "port of metrics and profiles on 127.0.0.1, open to every user of this machine (default none)")
	fs.StringVar(&s.Kubernetes, "kubernetes", s.Kubernetes, "local: a Kubernetes API of its own; none: REST and gRPC only")
	fs.StringVar(&s.Kubeconfig, "kubeconfig", s.Kubeconfig, "kubeconfig of a cluster of yours, instead of a Kubernetes API of its own")
	fs.StringSliceVar(&s.VirtualMachineCIDRs, "virtual-machine-cidrs", s.VirtualMachineCIDRs, "networks that guests get their addresses from")
	fs.StringVar(&s.NetworkMode, "network", s.NetworkMode, "how guests are connected: tap (needs root), user, or auto")
	fs.StringVar(&s.PublishAddress, "publish-address", s.PublishAddress, "address of this machine where node ports of Services are, or none")
	fs.StringVar(&s.LoadBalancerCIDR, "load-balancer-cidr", s.LoadBalancerCIDR, "addresses of this machine for load balancers and Ingresses; empty for none")
	fs.Uint16Var(&s.IngressHTTPPort, "ingress-http-port", s.IngressHTTPPort, "port of Ingresses for HTTP")
	fs.Uint16Var(&s.IngressHTTPSPort, "ingress-https-port", s.IngressHTTPSPort, "port of Ingresses for HTTPS")
	fs.IntVar(&s.Nodes, "nodes", s.Nodes, "how many nodes this machine simulates")
	fs.Float64Var(&s.CPUOvercommit, "cpu-overcommit", s.CPUOvercommit, "how many times its processors each node promises")
	fs.Float64Var(&s.MemoryOvercommit, "memory-overcommit", s.MemoryOvercommit, "how many times its memory each node promises")
	fs.Float64Var(&s.DiskOvercommit, "disk-overcommit", s.DiskOvercommit, "how many times the free space disks may be promised; 0 for no limit")
	fs.StringVar(&s.DefaultStorageClass, "default-storage-class", s.DefaultStorageClass, "storage class of disks that name none (default the cluster's)")
	fs.StringVar(&s.DefaultImageStorageClass, "default-image-storage-class", s.DefaultImageStorageClass, "storage class of images with storage PersistentVolumeClaim that name none (default the cluster's)")
	serve.NameSetting(fs, "default-storage-class", "virtualDisks.defaultStorageClassName")
	serve.NameSetting(fs, "default-image-storage-class", "virtualImages.defaultStorageClassName")
	fs.StringSliceVar(&s.AllowImageSources, "allow-image-source", s.AllowImageSources, "local or private networks (CIDR) that images may come from")
	fs.StringVar(&s.QEMU, "qemu", s.QEMU, "the emulator: a path, or a name in PATH")
	fs.StringVar(&s.MigrationBandwidth, "migration-bandwidth", s.MigrationBandwidth, "how many bytes of memory a live migration sends a second; 0 for no limit")
	fs.DurationVar(&s.MigrationProgressTimeout, "migration-progress-timeout", s.MigrationProgressTimeout, "after how long without progress a live migration is aborted")
	fs.DurationVar(&s.RebalanceEvery, "rebalance-every", s.RebalanceEvery, "how often VMs are moved from full nodes to emptier ones; 0 is never")
	fs.BoolVar(&s.CopyLocalDisks, "copy-local-disks", s.CopyLocalDisks, "let VMs move that have disks of class local-wffc: the disks are copied while the guest runs")
	fs.BoolVar(&s.KeepOldQEMU, "keep-old-qemu", s.KeepOldQEMU, "don't move running VMs into a newer QEMU that was installed since")
	fs.DurationVar(&s.MigrationCompletionTimeout, "migration-completion-timeout", s.MigrationCompletionTimeout, "how long a live migration may take, for each GiB of memory")
	fs.BoolVar(&s.Verbose, "verbose", s.Verbose, "log details")
}

// ErrUnknownSettings says that a file of settings has keys that mean nothing.
var ErrUnknownSettings = errors.New("there are no such settings")

// Read reads the flags that Bind made, after the command line was, from the
// environment and then from the file of settings. A key of the file is the name
// of its flag (publishAddress), or that of the platform's module
// (virtualMachineCIDRs, virtualDisks.defaultStorageClassName).
func (s *Settings) Read(fs *pflag.FlagSet) error {
	if err := serve.ApplyEnvironment(fs, "orlop"); err != nil {
		return err
	}
	path := s.Config
	if path == "" {
		path = filepath.Join(s.Home, configFile)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	unknown, err := serve.ApplySettings(fs, path)
	if len(unknown) > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %s: %s; orlop up -h lists what there is", ErrUnknownSettings, path, strings.Join(unknown, ", ")))
	}
	return err
}

// Validate says what is wrong with the settings, all of it at once.
func (s Settings) Validate() error {
	return errors.Join(s.validateMachines(), s.validateNetworks())
}

func (s Settings) validateMachines() error {
	var problems problems
	if !slices.Contains([]string{KubernetesLocal, KubernetesNone}, s.Kubernetes) {
		problems.add("--kubernetes=%s: must be local or none", s.Kubernetes)
	}
	if s.Nodes < 1 {
		problems.add("--nodes=%d: must be at least 1", s.Nodes)
	}
	if s.CPUOvercommit <= 0 || s.MemoryOvercommit <= 0 {
		problems.add("--cpu-overcommit and --memory-overcommit must be above 0")
	}
	if s.DiskOvercommit < 0 {
		problems.add("--disk-overcommit=%g: must not be below 0", s.DiskOvercommit)
	}
	if _, err := s.MigrationBytesPerSecond(); err != nil {
		problems.add("--migration-bandwidth=%s: must be a quantity of bytes, such as 640Mi, or 0", s.MigrationBandwidth)
	}
	if s.MigrationProgressTimeout <= 0 || s.MigrationCompletionTimeout <= 0 {
		problems.add("--migration-progress-timeout and --migration-completion-timeout must be above 0")
	}
	if _, err := Prefixes(s.AllowImageSources); err != nil {
		problems.add("--allow-image-source: %w", err)
	}
	return errors.Join(problems...)
}

func (s Settings) validateNetworks() error {
	var problems problems
	if !slices.Contains([]string{NetworkAuto, NetworkTap, NetworkUser}, s.NetworkMode) {
		problems.add("--network=%s: must be tap, user or auto", s.NetworkMode)
	}
	if _, err := Prefixes(s.VirtualMachineCIDRs); err != nil {
		problems.add("--virtual-machine-cidrs: %w", err)
	} else if len(s.VirtualMachineCIDRs) == 0 {
		problems.add("--virtual-machine-cidrs: at least one network is needed")
	}
	if _, err := s.NodePorts(); err != nil {
		problems.add("--publish-address: %w", err)
	}
	if _, err := s.LoadBalancers(); err != nil {
		problems.add("--load-balancer-cidr: %w", err)
	}
	if s.IngressHTTPPort == 0 || s.IngressHTTPSPort == 0 || s.IngressHTTPPort == s.IngressHTTPSPort {
		problems.add("--ingress-http-port and --ingress-https-port must be two ports")
	}
	return errors.Join(problems...)
}

// problems are what is wrong with the settings.
type problems []error

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Errorf(format, args...)) }

// MigrationBytesPerSecond is MigrationBandwidth as a number.
func (s Settings) MigrationBytesPerSecond() (int64, error) {
	quantity, err := resource.ParseQuantity(s.MigrationBandwidth)
	if err != nil {
		return 0, err
	}
	bytes, exact := quantity.AsInt64()
	if !exact || bytes < 0 {
		return 0, fmt.Errorf("%s is no number of bytes", s.MigrationBandwidth)
	}
	return bytes, nil
}

// NodePorts is where node ports are; the zero Addr for nowhere.
func (s Settings) NodePorts() (netip.Addr, error) {
	if s.PublishAddress == PublishNowhere {
		return netip.Addr{}, nil
	}
	return netip.ParseAddr(s.PublishAddress)
}

// LoadBalancers are the addresses of load balancers; the zero Prefix for none.
func (s Settings) LoadBalancers() (netip.Prefix, error) {
	if s.LoadBalancerCIDR == "" {
		return netip.Prefix{}, nil
	}
	prefix, err := netip.ParsePrefix(s.LoadBalancerCIDR)
	if err != nil {
		return netip.Prefix{}, err
	}
	if prefix.Addr().BitLen()-prefix.Bits() < 2 {
		return netip.Prefix{}, fmt.Errorf("%s has no address between its first and its last", prefix)
	}
	return prefix, nil
}

// Prefixes parses networks.
func Prefixes(texts []string) ([]netip.Prefix, error) {
	prefixes := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}
