package kubernetes

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
)

var (
	// ErrInUse means that another Server, of this process or another one, runs on the state directory.
	ErrInUse = errors.New("the Kubernetes state directory is in use")
	// ErrStopped means that the Server was stopped.
	ErrStopped = errors.New("the Kubernetes API was stopped")
	// ErrUnknownUser means that a user is none that the Server was started with.
	ErrUnknownUser = errors.New("no such Kubernetes user")
	// ErrOptions means that the options can't be worked with.
	ErrOptions = errors.New("unusable Kubernetes options")
)

// Options say what to run and where. Binary, Dir and Etcd.Endpoints are required.
type Options struct {
	// Binary is the path of bin/kube, which tools/kubernetes builds.
	Binary string
	// Dir holds all state but the objects: keys, tokens, kubeconfigs, logs. It is made if missing, readable by its owner only.
	Dir string
	// Etcd is where the objects are.
	Etcd Etcd
	// Address is where the API is served, on one particular IP. Its default is 127.0.0.1:6443; port 0 chooses a free one at each start.
	Address netip.AddrPort
	// Users are identities besides Admin, each with a token of its own. A user that is no longer listed loses its token.
	Users []User
	// Logger's default is slog.Default().
	Logger *slog.Logger
}

// Etcd is the etcd (v3 API) that holds the objects. Others may use it too, outside of Prefix; kube-apiserver compacts it every five minutes.
type Etcd struct {
	Endpoints []string // URLs
	Prefix    string   // default: /registry
	// CAFile, CertFile and KeyFile are PEM files for a mutual TLS connection. All are set, or none.
	CAFile, CertFile, KeyFile string
}

// A User is an identity that the API knows by a bearer token.
type User struct {
	Name   string
	Groups []string
}

var defaultAddress = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 6443)

// complete checks the options and fills in the defaults.
func (o Options) complete() (Options, error) {
	if o.Address == (netip.AddrPort{}) {
		o.Address = defaultAddress
	}
	o.Address = netip.AddrPortFrom(o.Address.Addr().Unmap(), o.Address.Port())
	if o.Etcd.Prefix == "" {
		o.Etcd.Prefix = "/registry"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	var err error
	if o.Binary, err = realPath(o.Binary); err != nil {
		return o, fmt.Errorf("%w: binary: %w", ErrOptions, err)
	}
	return o, errors.Join(o.validate(), o.Etcd.validate())
}

func (o Options) validate() error {
	switch {
	case o.Dir == "":
		return fmt.Errorf("%w: no directory", ErrOptions)
	case !o.Address.IsValid() || o.Address.Addr().IsUnspecified():
		return fmt.Errorf("%w: %s is not an address that clients can be sent to", ErrOptions, o.Address)
	}
	seen := map[string]bool{Admin: true, controllerManagerUser: true, proxyUser: true}
	for _, user := range o.Users {
		if user.Name == "" || seen[user.Name] {
			return fmt.Errorf("%w: the user name %q is empty, taken or reserved", ErrOptions, user.Name)
		}
		seen[user.Name] = true
	}
	return nil
}

func (e Etcd) validate() error {
	if len(e.Endpoints) == 0 {
		return fmt.Errorf("%w: no etcd endpoints", ErrOptions)
	}
	if set := e.CAFile != ""; set != (e.CertFile != "") || set != (e.KeyFile != "") {
		return fmt.Errorf("%w: etcd's CA, certificate and key files go together", ErrOptions)
	}
	return nil
}
