package importer_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"orlop.dev/kit/durable"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/source"
)

// Of the process that is killed: where it works, and what it imports.
const (
	crashDir = "ORLOP_IMPORT_CRASH_DIR"
	crashURL = "ORLOP_IMPORT_CRASH_URL"
)

// place is a folder with all that outlives a process: DVCR's storage, the staging
// directory and the checkpoint.
type place string

func (p place) storage() string { return filepath.Join(string(p), "dvcr") }
func (p place) staging() string { return filepath.Join(string(p), "staging") }

func (p place) make(t *testing.T) {
	t.Helper()
	for _, folder := range []string{p.storage(), p.staging()} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// begin has an import work in a place. It goes on with what is there.
func (p place) begin(t *testing.T, url string) *fixture {
	t.Helper()
	p.make(t)
	f := newFixtureAt(t, nil, dvcrtest.Options{Local: true, Root: p.storage()})
	f.staging = p.staging()
	f.importer = importer.New(importer.Options{StagingDir: f.staging, ChunkBytes: chunk})
	f.request.Source = importer.HTTP(source.Options{URL: url, AllowPrivate: loopback})
	f.request.Checkpoints = &surviving{onDisk{path: filepath.Join(string(p), "checkpoint")}}
	return f
}

// surviving reads what an earlier process saved.
type surviving struct{ onDisk }

func (s *surviving) Load(ctx context.Context) (importer.Checkpoint, error) {
	text, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return importer.Checkpoint{}, err
	}
	s.text = text
	return s.onDisk.Load(ctx)
}

func (s *surviving) Clear(context.Context) error { return durable.Remove(s.path) }

// TestCrashChild is the process that is killed.
func TestCrashChild(t *testing.T) {
	dir, url := os.Getenv(crashDir), os.Getenv(crashURL)
	if dir == "" {
		t.Skip("it is run by the tests that kill it")
	}
	f := place(dir).begin(t, url)
	if _, err := f.importer.Import(t.Context(), f.request); err != nil {
		t.Fatal(err)
	}
}

// TestKilledImportIsEndedByTheNextProcess kills a process that imports, with the
// registry in it, at one moment after the other: while it fetches, converts,
// pushes, commits, inspects and publishes.
func TestKilledImportIsEndedByTheNextProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts many processes")
	}
	raw := rawDisk(t)
	for name, data := range map[string][]byte{
		"qcow2": converted(t, raw, "-O", "qcow2"), "raw": read(t, raw), "packed": packed(t, read(t, raw), "gzip"),
	} {
		t.Run(name, func(t *testing.T) {
			url := newFixture(t, data, nil).address + "/disk"
			kills := 0
			for event, stride := 1, 1; ; event, stride = event+stride, stride+1 {
				p := place(t.TempDir())
				if !p.killAt(t, url, event) {
					break
				}
				kills++
				f := p.begin(t, url)
				got, err := f.importer.Import(t.Context(), f.request)
				if err != nil {
					t.Fatalf("after a kill at event %d: %v", event, err)
				}
				f.holds(t, got, raw)
				if _, err := os.Stat(filepath.Join(string(p), "checkpoint")); err == nil {
					t.Errorf("after a kill at event %d a checkpoint is left", event)
				}
			}
			if kills < 3 {
				t.Errorf("the process was killed at %d moments only", kills)
			}
			t.Logf("killed at %d moments", kills)
		})
	}
}

// TestImportKilledInItsHeaderIsDoneByTheNextProcess kills a process that has a part
// of what it must read before it knows what the file is.
func TestImportKilledInItsHeaderIsDoneByTheNextProcess(t *testing.T) {
	raw := rawDisk(t)
	data := converted(t, raw, "-O", "qcow2")
	for _, sent := range []int{0, 60, 4 << 10, 66 << 10} {
		t.Run(fmt.Sprint(sent, " bytes"), func(t *testing.T) {
			reading := make(chan struct{})
			stuck := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", strconv.Itoa(len(data)))
				w.Header().Set("ETag", `"v1"`)
				_, _ = w.Write(data[:sent])
				_ = http.NewResponseController(w).Flush()
				close(reading)
				<-r.Context().Done()
			}))
			t.Cleanup(stuck.Close)
			p := place(t.TempDir())
			child, output := p.child(t, stuck.URL+"/disk")
			<-reading
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := child.Wait(); err == nil {
				t.Fatalf("it ended by itself\n%s", output)
			}
			f := p.begin(t, newFixture(t, data, nil).address+"/disk")
			got, err := f.importer.Import(t.Context(), f.request)
			if err != nil {
				t.Fatal(err)
			}
			f.holds(t, got, raw)
		})
	}
}

// child begins an import in a process of its own.
func (p place) child(t *testing.T, url string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	p.make(t)
	child, output := exec.Command(os.Args[0], "-test.run=^TestCrashChild$"), new(strings.Builder)
	child.Env = append(os.Environ(), crashDir+"="+string(p), crashURL+"="+url)
	child.Stdout, child.Stderr = output, output
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	return child, output
}

// killAt runs an import in a process of its own and kills it when that many
// things happened to files below the place; false if it ended before.
func (p place) killAt(t *testing.T, url string, event int) bool {
	t.Helper()
	p.make(t)
	watch, err := newWatch(string(p))
	if err != nil {
		t.Fatal(err)
	}
	child, output := p.child(t, url)
	reached := make(chan bool, 1)
	go func() { reached <- watch.countTo(event, child.Process) }()
	err = child.Wait()
	_ = watch.events.Close()
	if <-reached {
		return true
	}
	if err != nil {
		t.Fatalf("the import: %v\n%s", err, output)
	}
	return false
}

// watch is told what happens to the files of a folder and of those that come to
// be in it.
type watch struct {
	events  *os.File
	fd      int
	folders map[int]string
}

const watched = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_CLOSE_WRITE

func newWatch(dir string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	w := &watch{events: os.NewFile(uintptr(fd), "inotify"), fd: fd, folders: map[int]string{}}
	return w, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			w.add(path)
		}
		return err
	})
}

func (w *watch) add(path string) {
	if wd, err := unix.InotifyAddWatch(w.fd, path, watched); err == nil {
		w.folders[wd] = path
	}
}

// countTo kills the process at an event; false if the events end before.
func (w *watch) countTo(wanted int, victim *os.Process) bool {
	buffer := make([]byte, 64<<10)
	for seen := 0; ; {
		n, err := w.events.Read(buffer)
		if err != nil {
			return false
		}
		for at := 0; at < n; {
			wd := int(buffer[at]) | int(buffer[at+1])<<8
			mask := uint32(buffer[at+4]) | uint32(buffer[at+7])<<24 | uint32(buffer[at+5])<<8 | uint32(buffer[at+6])<<16
			length := int(buffer[at+12]) | int(buffer[at+13])<<8
			name := strings.TrimRight(string(buffer[at+unix.SizeofInotifyEvent:at+unix.SizeofInotifyEvent+length]), "\x00")
			at += unix.SizeofInotifyEvent + length
			if mask&unix.IN_ISDIR != 0 && mask&unix.IN_CREATE != 0 {
				w.add(filepath.Join(w.folders[wd], name))
			}
			if seen++; seen == wanted {
				return victim.Kill() == nil
			}
		}
	}
}
