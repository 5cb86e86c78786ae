package rest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"orlop.dev/deploy/local/internal/registry"
	"orlop.dev/kit/resource/etcdtest"
	"orlop.dev/kit/serve"
	"orlop.dev/services/image"
)

const images = "/v1alpha2/namespaces/default/virtualimages"

// uploadDoor is the gateway in front of an image service with a real registry.
type uploadDoor struct {
	*door
	authority *serve.Authority
	caFile    string
	log       *transcript
}

// transcript keeps what is logged.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *transcript) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

func newUploadDoor(t *testing.T, staging string) *uploadDoor {
	t.Helper()
	authority, err := serve.OpenAuthority(t.TempDir())
	check(t, err)
	d := &uploadDoor{authority: authority, caFile: filepath.Join(t.TempDir(), "ca.crt"), log: &transcript{}}
	check(t, os.WriteFile(d.caFile, authority.CertificatePEM(), 0o600))
	logger := slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))

	dvcr, err := registry.New(registry.Options{Dir: t.TempDir(), TLS: serverTLS(t, authority), Logger: logger})
	check(t, err)
	storage := listen(t)
	background(t, "registry", func(ctx context.Context) error { return dvcr.Run(ctx, storage) })

	listener := listen(t)
	conn, err := serve.Dial(listener.Addr().String(), serve.ClientTLS(authority.Pool()))
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	service, err := image.New(image.Options{
		Etcd: etcdtest.Start(t), StagingDir: staging, Logger: logger,
		Uploads: image.Uploads{URL: "https://door.example", CAFile: d.caFile},
		Registry: image.Registry{
			Endpoint: storage.Addr().String(), CA: authority.CertificatePEM(),
			Username: dvcr.Credential().Username, Password: dvcr.Credential().Password,
		},
	})
	check(t, err)
	d.door = openDoor(t, authority, service.Part(), conn, listener, logger)
	return d
}

// begin makes an image that waits for a file, and returns the path of its upload.
func (d *uploadDoor) begin(t *testing.T, name string) string {
	t.Helper()
	d.ask(t, request{method: http.MethodPost, path: images, body: map[string]any{
		"metadata": map[string]any{"name": name}, "spec": map[string]any{"dataSource": map[string]any{"type": "Upload"}},
	}}).object(t, http.StatusOK)
	object := d.await(t, name, "WaitForUserUpload")
	url, _ := at(object, "status", "imageUploadURLs", "external").(string)
	where := "/upload/" + path.Base(url)
	t.Cleanup(func() {
		if d.log.has(path.Base(url)) {
			t.Error("the token is in a log")
		}
	})
	if url != "https://door.example"+where {
		t.Errorf("the address is %s", url)
	}
	return where
}

// await follows an image until it is in a phase.
func (d *uploadDoor) await(t *testing.T, name, phase string) map[string]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		object := d.ask(t, request{method: http.MethodGet, path: images + "/" + name}).object(t, http.StatusOK)
		if at(object, "status", "phase") == phase {
			return object
		}
		select {
		case <-tick.C:
			if at(object, "status", "phase") != "Failed" {
				continue
			}
		case <-ctx.Done():
		}
		t.Fatalf("%s is never %s: %v", name, phase, at(object, "status"))
	}
}

// offset is what the door says has arrived.
func (d *uploadDoor) offset(t *testing.T, where string) int {
	t.Helper()
	answered := d.ask(t, request{method: http.MethodHead, path: where, token: "none"})
	offset, err := strconv.Atoi(answered.Header.Get("Upload-Offset"))
	if answered.StatusCode != http.StatusOK || err != nil {
		t.Fatalf("HEAD answers %d, %v", answered.StatusCode, answered.Header)
	}
	return offset
}

// iso is an image that needs no tool to be made.
func iso(size int) []byte {
	image := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(image)
	const block = 2048
	volume := image[16*block : 17*block]
	clear(volume)
	copy(volume, "\x01CD001\x01")
	binary.LittleEndian.PutUint32(volume[80:], uint32(size/block))
	binary.BigEndian.PutUint32(volume[84:], uint32(size/block))
	binary.LittleEndian.PutUint16(volume[128:], block)
	binary.BigEndian.PutUint16(volume[130:], block)
	copy(image[17*block:], "\xffCD001\x01")
	return image
}

func patch(where string, offset int, body string) request {
	return request{method: http.MethodPatch, path: where, token: "none", body: body, header: map[string]string{
		"Content-Type": "application/offset+octet-stream", "Upload-Offset": strconv.Itoa(offset),
	}}
}

// TestCommandInTheStatusUploads runs what people copy from there, twice: a file
// of known length, and a pipe.
func TestCommandInTheStatusUploads(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	d := newUploadDoor(t, t.TempDir())
	file := filepath.Join(t.TempDir(), "disk.iso")
	check(t, os.WriteFile(file, iso(3<<20), 0o600))
	for name, ending := range map[string]string{"file": file, "pipe": "- <" + file} {
		d.begin(t, name)
		command, _ := at(d.await(t, name, "WaitForUserUpload"), "status", "uploadCommand").(string)
		command = strings.Replace(strings.Replace(command, "FILE", ending, 1), "https://door.example", d.url, 1)
		out, err := exec.CommandContext(t.Context(), "sh", "-c", command+" -sS --fail-with-body").CombinedOutput()
		if err != nil || !strings.Contains(string(out), `"state":"Complete"`) {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		status := at(d.await(t, name, "Ready"), "status")
		if at(status, "cdrom") != true || at(status, "imageUploadURLs") != nil || at(status, "size", "storedBytes") != "3145728" {
			t.Errorf("%s: the status is %v", name, status)
		}
	}
}

func TestUploadIsPickedUpWhereItIs(t *testing.T) {
	d := newUploadDoor(t, t.TempDir())
	where, data := d.begin(t, "pieces"), string(iso(1<<20))
	d.ask(t, request{method: http.MethodGet, path: where + "x", token: "none"}).refusal(t, http.StatusNotFound, "UploadUnknown")
	d.ask(t, request{method: http.MethodDelete, path: where, token: "none"}).refusal(t, http.StatusMethodNotAllowed, "MethodNotAllowed")
	state := d.ask(t, request{method: http.MethodGet, path: where, token: "none"}).object(t, http.StatusOK)
	if state["state"] != "Waiting" || state["offset"] != 0.0 {
		t.Errorf("the probe answers %v", state)
	}

	for _, wrong := range []struct {
		request
		code   int
		reason string
	}{
		{patch(where, 5, "x"), http.StatusConflict, "UploadOffsetMismatch"},
		{patch(where, -1, "x"), http.StatusBadRequest, "Invalid"},
		{request{method: http.MethodPatch, path: where, body: "x", header: map[string]string{"Upload-Offset": "0"}}, http.StatusUnsupportedMediaType, "UnsupportedMediaType"},
		{request{method: http.MethodPost, path: where, body: "x", header: map[string]string{"Content-Type": "multipart/form-data; boundary=b"}}, http.StatusUnsupportedMediaType, "UnsupportedMediaType"},
		{request{method: http.MethodPut, path: where, body: "x", header: map[string]string{"Content-Range": "bytes 0-5/3"}}, http.StatusBadRequest, "Invalid"},
		{request{method: http.MethodPut, path: where, body: ""}, http.StatusBadRequest, "UploadLengthMismatch"},
	} {
		answered := d.ask(t, wrong.request)
		answered.refusal(t, wrong.code, wrong.reason)
		if wrong.reason == "UploadOffsetMismatch" && answered.Header.Get("Upload-Offset") != "0" {
			t.Errorf("the right offset is %q", answered.Header.Get("Upload-Offset"))
		}
	}

	// A piece by PATCH, one by PUT with a range, the rest by PATCH.
	first := d.ask(t, patch(where, 0, data[:1000]))
	if first.StatusCode != http.StatusNoContent || first.Header.Get("Upload-Offset") != "1000" || first.Header.Get("Upload-Complete") != "?0" {
		t.Errorf("the first piece: %d %v", first.StatusCode, first.Header)
	}
	d.ask(t, request{method: http.MethodPut, path: where, token: "none", body: data[1000:3000], header: map[string]string{
		"Content-Range": fmt.Sprintf("bytes 1000-2999/%d", len(data)),
	}}).object(t, http.StatusOK)
	if offset := d.offset(t, where); offset != 3000 {
		t.Errorf("after two pieces it ends at %d", offset)
	}
	d.ask(t, patch(where, 2999, data[3000:])).refusal(t, http.StatusConflict, "UploadOffsetMismatch")
	rest := d.ask(t, patch(where, 3000, data[3000:]))
	if rest.StatusCode != http.StatusNoContent || rest.Header.Get("Upload-Complete") != "?1" {
		t.Errorf("the rest: %d %v", rest.StatusCode, rest.Header)
	}
	d.await(t, "pieces", "Ready")
}

// TestConnectionThatBreaksLosesNothing sends half a file over a connection of its
// own, and cuts that.
func TestConnectionThatBreaksLosesNothing(t *testing.T) {
	d := newUploadDoor(t, t.TempDir())
	where, data := d.begin(t, "broken"), iso(2<<20)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(d.url, "https://"), &tls.Config{RootCAs: d.authority.Pool(), MinVersion: tls.VersionTLS12})
	check(t, err)
	_, err = fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: door\r\nContent-Length: %d\r\n\r\n", where, len(data))
	check(t, err)
	_, err = conn.Write(data[:1<<20])
	check(t, err)
	// Closed at once, the connection would take along what the door hasn't read.
	check(t, conn.CloseWrite())
	_, err = io.Copy(io.Discard, conn)
	check(t, err)
	check(t, conn.Close())
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for d.offset(t, where) != 1<<20 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("what arrived is lost: it ends at %d", d.offset(t, where))
		}
	}
	if answered := d.ask(t, patch(where, 1<<20, string(data[1<<20:]))); answered.StatusCode != http.StatusNoContent {
		t.Fatalf("the rest: %d %s", answered.StatusCode, answered.text)
	}
	d.await(t, "broken", "Ready")
}

func TestSecondSenderWaits(t *testing.T) {
	d := newUploadDoor(t, t.TempDir())
	where, data := d.begin(t, "two"), iso(1<<20)
	body, sender := io.Pipe()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	first, err := http.NewRequestWithContext(ctx, http.MethodPut, d.url+where, body)
	check(t, err)
	answered := make(chan error, 1)
	go func() {
		response, err := d.client.Do(first)
		if err == nil {
			err = response.Body.Close()
		}
		answered <- err
	}()
	_, err = sender.Write(data[:300<<10])
	check(t, err)
	d.await(t, "two", "Provisioning") // the first byte has arrived
	d.ask(t, patch(where, 0, "x")).refusal(t, http.StatusConflict, "UploadInProgress")
	d.ask(t, request{method: http.MethodPut, path: where, token: "none", body: "x"}).refusal(t, http.StatusConflict, "UploadInProgress")
	_, err = sender.Write(data[300<<10:])
	check(t, err)
	check(t, sender.Close())
	check(t, <-answered)
	d.await(t, "two", "Ready")
}

// TestGatewayEndsWithAnUploadUnderWay: what has arrived is kept, and nobody waits
// for the rest.
func TestGatewayEndsWithAnUploadUnderWay(t *testing.T) {
	d := newUploadDoor(t, t.TempDir())
	where := d.begin(t, "open")
	body, sender := io.Pipe()
	defer sender.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, d.url+where, body)
	check(t, err)
	answered := make(chan int, 1)
	go func() {
		response, err := d.client.Do(request)
		if err != nil {
			answered <- 0
			return
		}
		answered <- response.StatusCode
		_ = response.Body.Close()
	}()
	_, err = sender.Write(iso(300 << 10))
	check(t, err)
	d.await(t, "open", "Provisioning")
	d.stopGateway()
	if code := <-answered; code != http.StatusServiceUnavailable && code != 0 {
		t.Errorf("the sender is told %d", code)
	}
}

// TestFullDiskIsToldAndGoneOnWith has the staging directory on a small file system.
func TestFullDiskIsToldAndGoneOnWith(t *testing.T) {
	staging := t.TempDir()
	if err := syscall.Mount("tmpfs", staging, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("needs root to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(staging, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := newUploadDoor(t, staging)
	where, data := d.begin(t, "full"), iso(3<<20)
	d.ask(t, request{method: http.MethodPut, path: where, token: "none", body: string(iso(5 << 20))}).
		refusal(t, http.StatusInsufficientStorage, "NoSpaceForUpload")

	filler := filepath.Join(staging, "filler")
	check(t, os.WriteFile(filler, make([]byte, 2<<20), 0o600))
	// No length is told, so that only the disk itself can say that it is full.
	unsized, err := http.NewRequestWithContext(t.Context(), http.MethodPut, d.url+where, io.MultiReader(bytes.NewReader(data)))
	check(t, err)
	response, err := d.client.Do(unsized)
	check(t, err)
	check(t, response.Body.Close())
	if response.StatusCode != http.StatusInsufficientStorage {
		t.Fatalf("a full disk is told as %d", response.StatusCode)
	}
	if err := os.Remove(filler); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	offset := d.offset(t, where)
	last := patch(where, offset, string(data[offset:]))
	last.header["Upload-Complete"] = "?1"
	if answered := d.ask(t, last); answered.StatusCode != http.StatusNoContent {
		t.Fatalf("the rest: %d %s", answered.StatusCode, answered.text)
	}
	d.await(t, "full", "Ready")
}
