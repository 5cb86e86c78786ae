package endtoend_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
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

	"orlop.dev/facade/home"
)

// diskRounds is the least number of disks for a median.
const diskRounds = 5

// BenchmarkDiskFromImage is the time from a POST of a disk to the watch that says
// that it is Ready, for images of different sizes, beside qemu-img convert of the
// same image.
func BenchmarkDiskFromImage(b *testing.B) {
	for _, mebibytes := range []int64{64, 1024} {
		b.Run(fmt.Sprintf("%dMiB", mebibytes), func(b *testing.B) {
			u := benchUser(b, mebibytes)
			door := u.door()
			var ours, theirs []time.Duration
			round := func() {
				name := fmt.Sprintf("disk-%d", len(ours))
				began := time.Now()
				door.makeDisk(b, name)
				ours = append(ours, time.Since(began))
				b.StopTimer()
				began = time.Now()
				out := filepath.Join(b.TempDir(), "out")
				u.mustRun(exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", u.base(), out))
				theirs = append(theirs, time.Since(began))
				check(b, os.Remove(out))
				b.StartTimer()
			}
			for b.Loop() {
				round()
			}
			b.StopTimer()
			for len(ours) < diskRounds {
				round()
				b.StopTimer()
			}
			b.ReportMetric(float64(middle(ours).Microseconds())/1000, "ms/ready")
			b.ReportMetric(middle(theirs).Seconds(), "s/convert")
		})
	}
}

// BenchmarkFirstRead reads a fresh disk from start to end, past the page cache,
// beside a flattened copy of it.
func BenchmarkFirstRead(b *testing.B) {
	const mebibytes = 1024
	u := benchUser(b, mebibytes)
	u.door().makeDisk(b, "fresh")
	volumes, err := filepath.Glob(filepath.Join(home.Home(u.home).Disks(), "volumes", "*.qcow2"))
	if err != nil || len(volumes) != 1 {
		b.Fatalf("volumes %v, %v", volumes, err)
	}
	flat := filepath.Join(home.Home(u.home).Disks(), "flat")
	u.mustRun(exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", volumes[0], flat))
	b.SetBytes(mebibytes << 20)
	read := func(path string) time.Duration {
		began := time.Now()
		u.mustRun(exec.Command("qemu-img", "dd", "-f", "qcow2", "-O", "raw", "bs=1M", "if="+path, "of="+filepath.Join(b.TempDir(), "out")))
		return time.Since(began)
	}
	var ours, theirs []time.Duration
	round := func() {
		ours = append(ours, read(volumes[0]))
		b.StopTimer()
		theirs = append(theirs, read(flat))
		b.StartTimer()
	}
	for b.Loop() {
		round()
	}
	b.StopTimer()
	for len(ours) < diskRounds {
		round()
		b.StopTimer()
	}
	b.ReportMetric(middle(ours).Seconds(), "s/overlay")
	b.ReportMetric(middle(theirs).Seconds(), "s/flat")
	b.ReportMetric(middle(ours).Seconds()/middle(theirs).Seconds(), "times-flat")
}

// benchUser has an image "base" of that much data.
func benchUser(b *testing.B, mebibytes int64) *user {
	b.Helper()
	u := newUser(b)
	dir := b.TempDir()
	raw, err := os.Create(filepath.Join(dir, "raw"))
	check(b, err)
	_, err = io.CopyN(raw, rand.NewChaCha8([32]byte{3}), mebibytes<<20)
	check(b, err)
	check(b, raw.Close())
	u.mustRun(exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw.Name(), filepath.Join(dir, "base.qcow2")))
	check(b, os.Remove(raw.Name()))
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	b.Cleanup(server.Close)
	u.up()
	u.apply(`{"apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": "VirtualImage", "metadata": {"name": "base"},
		"spec": {"storage": "ContainerRegistry", "dataSource": {"type": "HTTP", "http": {"url": "` + server.URL + `/base.qcow2"}}}}`)
	u.waitFor("vi/base", "{.status.phase}", "Ready")
	return u
}

// base is the file that disks of the image "base" stand on, in DVCR.
func (u *user) base() string {
	u.t.Helper()
	found := u.mustRun(exec.Command("find", u.home, "-path", "*/blobs/sha256/*", "-name", "data", "-size", "+1M"))
	return strings.TrimSpace(found)
}

// restDoor is the REST door, with its connections kept.
type restDoor struct {
	client *http.Client
	url    string
	token  string
}

func (u *user) door() *restDoor {
	u.t.Helper()
	pem, err := os.ReadFile(filepath.Join(u.home, "ca.crt"))
	check(u.t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &restDoor{
		client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}},
		url:    u.restURL("/v1alpha2/namespaces/default/virtualdisks"), token: u.token(),
	}
}

func (d *restDoor) ask(b *testing.B, method, url, body string) *http.Response {
	b.Helper()
	request, err := http.NewRequestWithContext(b.Context(), method, url, strings.NewReader(body))
	check(b, err)
	request.Header.Set("Authorization", "Bearer "+d.token)
	response, err := d.client.Do(request)
	check(b, err)
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		b.Fatalf("%s %s: %s\n%s", method, url, response.Status, text)
	}
	return response
}

// makeDisk makes a disk of the image "base" and returns when it is Ready.
func (d *restDoor) makeDisk(b *testing.B, name string) {
	b.Helper()
	d.make(b, "virtualdisks", name, `{"dataSource": {"type": "ObjectRef", "objectRef": {"kind": "VirtualImage", "name": "base"}}}`, "Ready")
}

// make makes an object and returns when the watch says that it is in a phase.
func (d *restDoor) make(b *testing.B, plural, name, spec, phase string) {
	b.Helper()
	url := strings.TrimSuffix(d.url, "virtualdisks") + plural
	created := d.ask(b, http.MethodPost, url, `{"metadata": {"name": "`+name+`"}, "spec": `+spec+`}`)
	check(b, created.Body.Close())
	watch := d.ask(b, http.MethodGet, url+":watch", "")
	defer watch.Body.Close()
	lines := bufio.NewScanner(watch.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Object struct {
				Metadata struct{ Name string }
				Status   struct{ Phase string }
			}
		}
		check(b, json.Unmarshal(lines.Bytes(), &event))
		if object := event.Object; object.Metadata.Name == name && object.Status.Phase == phase {
			return
		}
	}
	b.Fatalf("the watch ended: %v", lines.Err())
}
