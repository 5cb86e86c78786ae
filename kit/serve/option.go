package serve

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/pflag"

	"orlop.dev/kit/auth"
)

// MaxMessageBytes limits a message in either direction: a page of 1000 objects
// of 16 KiB. etcd holds no object above 1.5 MiB.
const MaxMessageBytes = 16 << 20

// Options are what the user of a process decides. None of them is a secret:
// keys are given by the names of their files.
type Options struct {
	// Address is host:port of the gRPC server.
	Address string
	// PrivateAddress is host:port of metrics, health and profiles, by plain
	// HTTP. Nobody listens where it is empty.
	PrivateAddress string
	// CertificateFile and KeyFile prove to callers who the server is.
	CertificateFile, KeyFile string
	// ClientCAFile has the authority of the suite's own services.
	ClientCAFile string
	// StopTimeout is how long calls under way may take at the end.
	StopTimeout time.Duration
}

// Defaults returns the options that flags start from.
func Defaults() Options {
	return Options{Address: "127.0.0.1:7700", StopTimeout: 10 * time.Second}
}

// Bind makes flags of the options, with the present values as defaults.
func (o *Options) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.Address, "address", o.Address, "host:port of the gRPC server")
	fs.StringVar(&o.PrivateAddress, "private-address", o.PrivateAddress, "host:port of /metrics, /healthz and /debug/pprof (none if empty)")
	fs.StringVar(&o.CertificateFile, "tls-certificate", o.CertificateFile, "PEM file with the server's certificate")
	fs.StringVar(&o.KeyFile, "tls-key", o.KeyFile, "PEM file with the server's key")
	fs.StringVar(&o.ClientCAFile, "tls-client-ca", o.ClientCAFile, "PEM file with the authority of the other services' certificates")
	fs.DurationVar(&o.StopTimeout, "stop-timeout", o.StopTimeout, "how long calls under way may take at the end")
}

// LogValue prints the options at the start of a process.
func (o Options) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("address", o.Address),
		slog.String("private-address", o.PrivateAddress),
		slog.String("tls-certificate", o.CertificateFile),
		slog.String("tls-key", o.KeyFile),
		slog.String("tls-client-ca", o.ClientCAFile),
		slog.Duration("stop-timeout", o.StopTimeout),
	)
}

// ApplyEnvironment sets each flag that the command line didn't from the
// variable PREFIX_NAME_OF_FLAG, if there is one. Call it after Parse.
func ApplyEnvironment(fs *pflag.FlagSet, prefix string) error {
	var failed []error
	fs.VisitAll(func(f *pflag.Flag) {
		name := strings.ToUpper(prefix + "_" + strings.ReplaceAll(f.Name, "-", "_"))
		value, given := os.LookupEnv(name)
		if !given || f.Changed {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(failed...)
}

// Config is Options and what only a program can give. Guard is required.
type Config struct {
	Options
	// Name is the process's, for its logs.
	Name string
	// Guard stands before every method.
	Guard *auth.Guard
	// TLS replaces the files of Options where it is given.
	TLS *tls.Config
	// Listener replaces Options.Address where it is given. Run closes it.
	Listener net.Listener
	// Registry has the metrics that /metrics shows. Nil makes a new one.
	Registry *prometheus.Registry
	// Logger is slog.Default() where it is nil.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
		c.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = Defaults().StopTimeout
	}
	return c
}

// Validate says what is wrong with a config, all of it at once.
func (c Config) Validate() error {
	var wrong []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	check(c.Guard != nil, "a guard is required")
	check(c.StopTimeout > 0, "stop-timeout must be positive, it is %v", c.StopTimeout)
	check(c.TLS != nil || c.CertificateFile != "" && c.KeyFile != "", "tls-certificate and tls-key are required")
	if c.Listener == nil {
		_, _, err := net.SplitHostPort(c.Address)
		check(err == nil, "address %q is not host:port", c.Address)
	}
	if c.PrivateAddress != "" {
		_, _, err := net.SplitHostPort(c.PrivateAddress)
		check(err == nil, "private-address %q is not host:port", c.PrivateAddress)
	}
	return errors.Join(wrong...)
}
