package endtoend_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"orlop.dev/facade/home"
)

const (
	// sourceSpeed makes an import of the raw image last some seconds.
	sourceSpeed = 100 << 20
	// killedWithin is about how long it takes until everything is Ready.
	killedWithin = 5 * time.Second
)

// TestKillsWhileImagesAndDisksAreMade kills the daemon, everything in it and its
// Kubernetes API, at moments between an apply and the last thing that comes of
// it: a raw image that is converted, a compressed one, disks from both.
func TestKillsWhileImagesAndDisksAreMade(t *testing.T) {
	k := newKilled(t)
	for round := range 2 {
		k.round(round)
	}
}

// killed is a user whose daemon is killed, and what the user works with.
type killed struct {
	*user
	url    string // of the folder with the sources
	digest string // of the raw disk
}

func newKilled(t *testing.T) *killed {
	t.Helper()
	u := newUser(t)
	dir := t.TempDir()
	raw := filepath.Join(dir, "disk.raw")
	u.mustRun(exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", u.image(), raw))
	u.mustRun(exec.Command("gzip", "-k", "-1", raw))
	server := httptest.NewServer(slowFiles{dir})
	t.Cleanup(server.Close)
	u.up()
	return &killed{user: u, url: server.URL, digest: sha256Of(t, raw)}
}

// slowFiles serves a folder at sourceSpeed.
type slowFiles struct{ dir string }

func (s slowFiles) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	slow := &slowWriter{ResponseWriter: w, ctx: r.Context(), limit: rate.NewLimiter(sourceSpeed, 1<<20)}
	http.FileServer(http.Dir(s.dir)).ServeHTTP(slow, r)
}

// slowWriter hides the connection's own way to send a file.
type slowWriter struct {
	http.ResponseWriter
	ctx   context.Context
	limit *rate.Limiter
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if err := w.limit.WaitN(w.ctx, len(p)); err != nil {
		return 0, err
	}
	return w.ResponseWriter.Write(p)
}

func (k *killed) round(round int) {
	k.t.Helper()
	k.apply(k.manifests())
	moment := rand.N(killedWithin)
	k.t.Logf("round %d: killed after %s", round, moment)
	<-time.After(moment)
	k.killDaemon()
	k.orlop("up", "--allow-image-source", "127.0.0.0/8")
	for _, object := range []string{"vi/raw", "vd/of-image", "vd/of-archive"} {
		k.waitFor(object, "{.status.phase}", "Ready")
	}
	for _, disk := range []string{"of-image", "of-archive"} {
		file := filepath.Join(k.t.TempDir(), disk)
		k.orlop("download", "vd/"+disk, "--format", "raw", "-o", file)
		if digest := sha256Of(k.t, file); digest != k.digest {
			k.t.Errorf("round %d: disk %s has the content %s, want %s", round, disk, digest, k.digest)
		}
		check(k.t, os.Remove(file))
	}
	k.kubectl("delete", "vi/raw", "vd/of-image", "vd/of-archive", "--timeout", "3m")
	k.leavesNothing()
}

// leavesNothing fails if files of images or disks are there.
func (u *user) leavesNothing() {
	u.t.Helper()
	state := home.Home(u.home)
	for _, pattern := range []string{
		filepath.Join(state.Disks(), "*", "*"), filepath.Join(state.Images(), "*.qcow2"), filepath.Join(state.Images(), "*.json"),
	} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			u.t.Errorf("files are left: %v", left)
		}
	}
}

func (k *killed) manifests() string {
	return strings.ReplaceAll(`
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualImage
metadata:
  name: raw
spec:
  storage: ContainerRegistry
  dataSource:
    type: HTTP
    http:
      url: "URL/disk.raw"
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata:
  name: of-image
spec:
  dataSource:
    type: ObjectRef
    objectRef:
      kind: VirtualImage
      name: raw
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata:
  name: of-archive
spec:
  dataSource:
    type: HTTP
    http:
      url: "URL/disk.raw.gz"
`, "URL", k.url)
}

func sha256Of(t testing.TB, path string) string {
	t.Helper()
	file, err := os.Open(path)
	check(t, err)
	defer file.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, file)
	check(t, err)
	return hex.EncodeToString(sum.Sum(nil))
}
