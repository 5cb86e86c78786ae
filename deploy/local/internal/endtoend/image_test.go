package endtoend_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// family is an image on a storage class, a disk from it, and all that can be made
// from that disk: images in DVCR and on a class, and disks from those.
const family = `
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualImage
metadata: {name: base}
spec:
  storage: PersistentVolumeClaim
  persistentVolumeClaim: {storageClassName: local}
  dataSource:
    type: HTTP
    http: {url: "URL/micro.qcow2"}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata: {name: root}
spec: {dataSource: {type: ObjectRef, objectRef: {kind: VirtualImage, name: base}}}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualImage
metadata: {name: in-dvcr}
spec:
  storage: ContainerRegistry
  dataSource: {type: ObjectRef, objectRef: {kind: VirtualDisk, name: root}}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: ClusterVirtualImage
metadata: {name: shared}
spec: {dataSource: {type: ObjectRef, objectRef: {kind: VirtualDisk, name: root, namespace: default}}}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualImage
metadata: {name: golden}
spec:
  storage: PersistentVolumeClaim
  dataSource: {type: ObjectRef, objectRef: {kind: VirtualDisk, name: root}}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualImage
metadata: {name: back}
spec:
  storage: ContainerRegistry
  dataSource: {type: ObjectRef, objectRef: {kind: VirtualImage, name: golden}}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata: {name: of-golden}
spec: {dataSource: {type: ObjectRef, objectRef: {kind: VirtualImage, name: golden}}}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata: {name: of-back}
spec: {dataSource: {type: ObjectRef, objectRef: {kind: VirtualImage, name: back}}}
---
apiVersion: virtualization.deckhouse.io/v1alpha2
kind: VirtualDisk
metadata: {name: of-shared}
spec: {dataSource: {type: ObjectRef, objectRef: {kind: ClusterVirtualImage, name: shared}}}
`

// TestImagesOfDisks makes images from disks and disks from images, in DVCR and on
// a storage class, all the ways round.
func TestImagesOfDisks(t *testing.T) {
	u := newUser(t)
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(u.image()))))
	t.Cleanup(server.Close)
	raw := filepath.Join(t.TempDir(), "raw")
	u.mustRun(exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", u.image(), raw))
	digest := sha256Of(t, raw)
	u.up()
	u.apply(strings.ReplaceAll(family, "URL", server.URL))
	for _, object := range []string{"vi/base", "vi/in-dvcr", "cvi/shared", "vi/golden", "vi/back"} {
		u.waitFor(object, "{.status.phase}", "Ready")
	}
	if wide := u.kubectl("get", "vi", "base", "-o", "wide"); !strings.Contains(wide, "d8v-vi-base-") || strings.Contains(wide, "dvcr") {
		t.Errorf("the image on a class is shown as\n%s", wide)
	}
	u.kubectl("delete", "vi/base", "vd/root", "vi/in-dvcr", "--timeout", "3m")
	for _, disk := range []string{"of-golden", "of-back", "of-shared"} {
		u.waitFor("vd/"+disk, "{.status.phase}", "Ready")
		file := filepath.Join(t.TempDir(), disk)
		u.orlop("download", "vd/"+disk, "--format", "raw", "-o", file)
		if got := sha256Of(t, file); got != digest {
			t.Errorf("disk %s has the content %s, want %s", disk, got, digest)
		}
		check(t, os.Remove(file))
	}
	u.kubectl("delete", "vi/golden", "vi/back", "cvi/shared", "vd/of-golden", "vd/of-back", "vd/of-shared", "--timeout", "3m")
	u.leavesNothing()
}
