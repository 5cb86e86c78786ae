package kubernetes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"orlop.dev/kit/durable"
)

// The files of the state directory. Logs are named for their process.
const (
	lockFile          = "lock"
	authorityFile     = "ca.pem" // key and certificate in one file, so that neither is ever there without the other
	authorityCertFile = "ca.crt" // the certificate alone, for the controller manager to publish
	servingFile       = "serving.pem"
	accountKeyFile    = "service-account.key"
	tokensFile        = "tokens.csv"
	adminKubeconfig   = "admin.kubeconfig"
	managerKubeconfig = "kube-controller-manager.kubeconfig"
	proxyKubeconfig   = "kube-proxy.kubeconfig"
)

// folder is the state directory, by its absolute path without symbolic links: one directory has one name, by which its processes are known.
type folder string

// openFolder makes the directory if it is missing and shuts it to everybody but its owner.
func openFolder(path string) (folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", err
	}
	real, err := realPath(path)
	if err != nil {
		return "", err
	}
	return folder(real), os.Chmod(real, 0o700)
}

// realPath is the absolute path without symbolic links of something that exists.
func realPath(path string) (string, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(absolute)
}

func (f folder) path(name string) string { return filepath.Join(string(f), name) }

// lock makes the caller the only owner of the folder until it closes the file or dies.
func (f folder) lock() (*os.File, error) {
	file, err := os.OpenFile(f.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrInUse, f)
		}
		return nil, fmt.Errorf("lock %s: %w", f, err)
	}
	return file, nil
}

// write replaces a file so that after a crash it is there whole or not at all. All that is written here is or leads to a secret: mode 0600.
func (f folder) write(name string, content []byte) error {
	return durable.WriteFile(f.path(name), content, 0o600)
}
