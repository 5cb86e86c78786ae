// Package home is what the orlop command and the orlopd daemon agree on: the
// state folder ($ORLOP_HOME) and who has it, the daemon's settings, and what it
// tells about itself.
//
// It owns names and forms of files. It must not know how the daemon is built
// nor how anything is shown to people.
package home

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Variable names the environment variable that says where the state folder is.
const Variable = "ORLOP_HOME"

// namespaces is where ip-netns(8) keeps its names.
const namespaces = "/run/netns"

// maxPathBytes leaves room in a unix socket's 108 bytes for what is below.
const maxPathBytes = 85

// ErrPathTooLong says that a state folder's path leaves no room for the names
// of unix sockets in it.
var ErrPathTooLong = errors.New("the path of the state folder is too long for unix sockets in it")

// Home is the state folder, by its absolute path. It is readable by its owner
// only, as is all in it.
type Home string

// Default is $ORLOP_HOME, else .orlop in the repository whose bin/ has this
// program, else .orlop in the working directory.
func Default() string {
	if dir := os.Getenv(Variable); dir != "" {
		return dir
	}
	if self, err := os.Executable(); err == nil {
		if bin := filepath.Dir(self); filepath.Base(bin) == "bin" {
			return filepath.Join(filepath.Dir(bin), ".orlop")
		}
	}
	return ".orlop"
}

// Locate names a state folder without touching it. The error is
// [ErrPathTooLong], or the system's.
func Locate(dir string) (Home, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	// QEMU's processes are known by their real folder.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if len(path) > maxPathBytes {
		return "", fmt.Errorf("%w: %s has %d bytes, %d are possible; set %s to a shorter one",
			ErrPathTooLong, path, len(path), maxPathBytes, Variable)
	}
	return Home(path), nil
}

// Make makes the folder and those in it, for their owner only. Idempotent.
func (h Home) Make() error {
	for _, dir := range []string{string(h), h.Logs(), h.Run(), h.Authority(), h.Etcd(), h.Registry(), h.Images(), h.Disks(), h.Machines(), h.Network()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return os.Chmod(string(h), 0o700)
}

// What users read.

// Kubeconfig is the administrator's, for kubectl.
func (h Home) Kubeconfig() string { return h.path("kubeconfig") }

// Token is a file with the administrator's bearer token, for REST and gRPC.
func (h Home) Token() string { return h.path("token") }

// CACertificate is a PEM file that verifies the servers of REST, gRPC and DVCR.
func (h Home) CACertificate() string { return h.path("ca.crt") }

// EndpointsFile has the addresses of the doors, see [Endpoints].
func (h Home) EndpointsFile() string { return h.path("endpoints.json") }

// KnownHosts has the ssh host keys of guests.
func (h Home) KnownHosts() string { return h.path("known_hosts") }

// What the daemon keeps.

// Authority has the certificate authority of this machine.
func (h Home) Authority() string { return h.path("authority") }

// Etcd has the embedded etcd.
func (h Home) Etcd() string { return h.path("etcd") }

// Registry has DVCR.
func (h Home) Registry() string { return h.path("dvcr") }

// Kubernetes has keys, tokens and logs of the local Kubernetes API.
func (h Home) Kubernetes() string { return h.path("kubernetes") }

// Disks has the layers of disks.
func (h Home) Disks() string { return h.path("disks") }

// Images is where images wait that are being imported.
func (h Home) Images() string { return h.path("images") }

// Machines has a folder for each QEMU process.
func (h Home) Machines() string { return h.path("vm") }

// Network has what the guests' network must remember.
func (h Home) Network() string { return h.path("network") }

// NetworkNamespace is the file of the guests' network namespace, which ip-netns(8)
// calls by its base name. Another folder's guests have another one, so that both
// can have the same addresses.
func (h Home) NetworkNamespace() string {
	sum := sha256.Sum256([]byte(h))
	return filepath.Join(namespaces, "orlop-"+hex.EncodeToString(sum[:4]))
}

// Logs has the daemon's logs.
func (h Home) Logs() string { return h.path("log") }

// Run has what is of no use after the daemon's end: sockets, lock, status.
func (h Home) Run() string { return h.path("run") }

// DaemonLog is where the daemon writes.
func (h Home) DaemonLog() string { return filepath.Join(h.Logs(), "orlopd.log") }

// TokenFile has the users where there is no Kubernetes API.
func (h Home) TokenFile() string { return h.path("tokens.csv") }

// EtcdSocket is where etcd listens. Whoever can open it may do everything.
func (h Home) EtcdSocket() string { return filepath.Join(h.Run(), "etcd.sock") }

func (h Home) path(name string) string { return filepath.Join(string(h), name) }
