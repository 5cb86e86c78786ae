package garbage_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"orlop.dev/deploy/local/internal/registry/garbage"
)

// mostRefusals are how often a lenient client begins an image anew before it gives
// it up: a quick collector may win each time.
const mostRefusals = 50

// story publishes images of few contents, some by mounts, looks at each, and
// deletes it again.
type story struct {
	client
	worker int
	random *rand.Rand
	// lenient says that a manifest may be refused for a blob that is gone, after
	// which its client begins anew.
	lenient            bool
	refused, published int
	// tell, if set, is called for each image that is published.
	tell func(repository, content string)
}

func (s *story) run(ctx context.Context, rounds int) error {
	for round := 0; round < rounds && ctx.Err() == nil; round++ {
		repository := fmt.Sprintf("vi/w%d/r%d", s.worker, s.random.IntN(2))
		content := fmt.Sprintf("disk %d", s.random.IntN(3))
		published, err := s.publishSomehow(repository, content)
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		if !published {
			continue
		}
		s.published++
		if err := s.whole(repository, "uid", content); err != nil {
			return fmt.Errorf("look: %w", err)
		}
		if s.tell != nil {
			s.tell(repository, content)
			if s.random.IntN(2) == 0 {
				continue // the next one of this name replaces it
			}
		}
		if err := s.unpublish(repository, content); err != nil {
			return fmt.Errorf("delete: %w", err)
		}
	}
	return nil
}

// publishSomehow reports whether the image is there.
func (s *story) publishSomehow(repository, content string) (bool, error) {
	for range mostRefusals {
		if err := s.pushBlob(repository, "{}"); err != nil {
			return false, err
		}
		if s.random.IntN(2) == 0 {
			other := fmt.Sprintf("vi/w%d/r%d", s.random.IntN(4), s.random.IntN(2))
			if _, err := s.mount(repository, other, content); err != nil {
				return false, err
			}
		} else if err := s.pushBlob(repository, content); err != nil {
			return false, err
		}
		status, err := s.putManifest(repository, "uid", manifest(content))
		if err != nil || status == http.StatusCreated {
			return err == nil, err
		}
		if !s.lenient {
			return false, fmt.Errorf("the manifest was answered %d", status)
		}
		s.refused++
	}
	return false, nil
}

// TestCollectorNeverRacesAWrite: with the claims' grace no client notices the
// collector; without it, as if each client took an hour between its requests, a
// published image is whole nonetheless.
func TestCollectorNeverRacesAWrite(t *testing.T) {
	for _, test := range []struct {
		name    string
		options garbage.Options
		rounds  int
	}{
		{"grace", garbage.Options{}, 25},
		{"no grace", garbage.Options{Now: later(2 * garbage.DefaultGrace)}, 8},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := run(t, t.TempDir(), test.options)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			collecting, writing := errgroup.Group{}, errgroup.Group{}
			rounds := 0
			var published atomic.Int64
			collecting.Go(func() error {
				for ctx.Err() == nil {
					if _, err := s.Collect(ctx); err != nil && ctx.Err() == nil {
						return err
					}
					rounds++
				}
				return nil
			})
			for worker := range 4 {
				writing.Go(func() error {
					story := &story{
						client: s.client(), worker: worker, lenient: test.name == "no grace",
						random: rand.New(rand.NewPCG(uint64(worker), 1)),
					}
					err := story.run(ctx, test.rounds)
					t.Logf("worker %d published %d images, and began %d times anew", worker, story.published, story.refused)
					published.Add(int64(story.published))
					return err
				})
			}
			if err := writing.Wait(); err != nil {
				t.Error(err)
			}
			cancel()
			if err := collecting.Wait(); err != nil {
				t.Error(err)
			}
			t.Logf("%d collections", rounds)
			if published.Load() == 0 {
				t.Error("no image was published: this shows nothing")
			}
			s.collect(t)
			if files := left(t, s.dir); len(files) > 0 && test.name == "no grace" {
				t.Errorf("left: %v", files)
			}
		})
	}
}

// doomed, in the environment, makes the test binary a registry that is going to
// be killed; its value is the storage.
const doomed = "ORLOP_TEST_DOOMED_REGISTRY"

func TestMain(m *testing.M) {
	if dir := os.Getenv(doomed); dir != "" {
		serveUntilKilled(dir)
	}
	os.Exit(m.Run())
}

// serveUntilKilled writes and collects without end, and says which images it
// has published.
func serveUntilKilled(dir string) {
	c, handler, err := open(dir, garbage.Options{Now: later(2 * garbage.DefaultGrace)})
	if err != nil {
		panic(err)
	}
	server := httptest.NewServer(handler)
	for worker := range 3 {
		go func() {
			story := &story{
				client: client{url: server.URL}, worker: worker, lenient: true,
				random: rand.New(rand.NewPCG(rand.Uint64(), 1)),
				tell:   func(repository, content string) { fmt.Println(repository, content) },
			}
			panic(story.run(context.Background(), 1<<30))
		}()
	}
	for {
		if _, err := c.Collect(context.Background()); err != nil {
			panic(err)
		}
	}
}

func TestKillInTheMiddleOfACollectionBreaksNoImage(t *testing.T) {
	dir := t.TempDir()
	for round := range 5 {
		killAfter(t, dir, 5+round*3)
		s := run(t, dir, garbage.Options{Now: later(48 * time.Hour)})
		inspect(t, s)
		s.collect(t)
		inspect(t, s)
		if report := s.collect(t); report.Blobs+report.Links+report.Manifests > 0 {
			t.Errorf("the second collection took %+v", report)
		}
	}
}

// killAfter runs a registry and kills it after it has published some images.
func killAfter(t *testing.T, dir string, images int) {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), doomed+"="+dir)
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	check(t, err)
	check(t, command.Start())
	lines := bufio.NewScanner(out)
	for seen := 0; seen < images; seen++ {
		if !lines.Scan() {
			t.Error("the registry ended by itself")
			break
		}
	}
	check(t, command.Process.Kill())
	_, _ = io.Copy(io.Discard, out)
	if err := command.Wait(); err == nil {
		t.Error("the registry wasn't killed")
	}
}

// inspect finds every image in the storage whole.
func inspect(t *testing.T, s *store) {
	t.Helper()
	_, catalog, err := s.client().ask(http.MethodGet, "/v2/_catalog", "")
	check(t, err)
	seen := 0
	for worker := range 3 {
		for r := range 2 {
			repository := fmt.Sprintf("vi/w%d/r%d", worker, r)
			_, text, err := s.client().ask(http.MethodGet, "/v2/"+repository+"/manifests/uid", "", "Accept", manifestType)
			check(t, err)
			if strings.Contains(text, "MANIFEST_UNKNOWN") || strings.Contains(text, "NAME_UNKNOWN") {
				continue
			}
			content := ""
			for i := range 3 {
				if c := fmt.Sprintf("disk %d", i); text == manifest(c) {
					content = c
				}
			}
			if err := s.client().whole(repository, "uid", content); err != nil {
				t.Errorf("%v (%s)", err, catalog)
			}
			seen++
		}
	}
	t.Logf("%d images are whole", seen)
}
