package source_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/source"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func content(size int) []byte {
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{7}).Read(data)
	return data
}

// file serves data with an ETag and ranges, and breaks off as it is told.
type file struct {
	data     []byte
	etag     string
	noRanges bool
	// sends, if set, is how many bytes of body an answer to request n (from 1)
	// carries before the connection breaks; negative means all.
	sends    func(n int64) int
	requests atomic.Int64
	served   atomic.Int64
}

func (f *file) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := f.requests.Add(1)
	if f.etag != "" {
		w.Header().Set("ETag", f.etag)
	}
	if f.noRanges {
		r.Header.Del("Range")
	}
	out := &cutting{ResponseWriter: w, left: -1, served: &f.served}
	if f.sends != nil {
		out.left = f.sends(n)
	}
	http.ServeContent(out, r, "", time.Time{}, bytes.NewReader(f.data))
}

type cutting struct {
	http.ResponseWriter
	left   int
	served *atomic.Int64
}

func (c *cutting) Write(p []byte) (int, error) {
	if c.left >= 0 && len(p) > c.left {
		c.ResponseWriter.Write(p[:c.left])
		c.served.Add(int64(c.left))
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	if c.left >= 0 {
		c.left -= len(p)
	}
	c.served.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL + "/disk.img"
}

func options(url string) source.Options {
	return source.Options{
		URL: url, AllowPrivate: loopback,
		Retry: source.Retry{Attempts: 3, Initial: time.Millisecond, Max: 2 * time.Millisecond, ProgressBytes: 1000},
	}
}

func read(ctx context.Context, o source.Options) ([]byte, *source.Reader, error) {
	r, err := source.Open(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return data, r, err
}

func wantReason(t *testing.T, err error, reason failure.Reason, class failure.Class) {
	t.Helper()
	if failure.ReasonOf(err) != reason {
		t.Errorf("got %v (%s), want %s", err, failure.ReasonOf(err), reason)
	}
	if failure.IsTerminal(err) != (class == failure.Terminal) {
		t.Errorf("%v: terminal is %v, want class %v", err, failure.IsTerminal(err), class)
	}
}

func TestReadSurvivesBrokenConnections(t *testing.T) {
	data := content(300_000)
	for _, noRanges := range []bool{false, true} {
		t.Run(fmt.Sprintf("noRanges=%v", noRanges), func(t *testing.T) {
			f := &file{data: data, etag: `"v1"`, noRanges: noRanges}
			f.sends = func(n int64) int {
				if n > 10 {
					return -1
				}
				return int(n) * 20_000
			}
			got, r, err := read(t.Context(), options(serve(t, f)))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, data) || r.Size() != int64(len(data)) {
				t.Errorf("got %d bytes of size %d, want the %d served", len(got), r.Size(), len(data))
			}
			if !noRanges && f.served.Load() > int64(len(data))+200_000 {
				t.Errorf("%d bytes were sent for %d", f.served.Load(), len(data))
			}
		})
	}
}

func TestReadOfUnknownLength(t *testing.T) {
	data := content(100_000)
	got, r, err := read(t.Context(), options(serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write(data[:50_000])
		w.(http.Flusher).Flush()
		w.Write(data[50_000:])
	}))))
	if err != nil || !bytes.Equal(got, data) || r.Size() != -1 {
		t.Errorf("got %d bytes, size %v, %v", len(got), r, err)
	}
}

func TestReadGivesUpWithoutProgress(t *testing.T) {
	f := &file{data: content(100_000), etag: `"v1"`, sends: func(int64) int { return 10 }}
	_, _, err := read(t.Context(), options(serve(t, f)))
	wantReason(t, err, source.ReasonLengthMismatch, failure.Terminal)
	if n := f.requests.Load(); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
}

func TestReadDoesNotResumeWhatHasNoVersion(t *testing.T) {
	f := &file{data: content(100_000), sends: func(int64) int { return 5000 }}
	_, _, err := read(t.Context(), options(serve(t, f)))
	wantReason(t, err, source.ReasonCannotBeResumed, failure.Temporary)
}

func TestReadSeesContentChangeBetweenRanges(t *testing.T) {
	for _, change := range []string{"etag", "size"} {
		t.Run(change, func(t *testing.T) {
			f := &file{data: content(100_000), etag: `"v1"`}
			f.sends = func(n int64) int {
				if n == 1 {
					return 5000
				}
				return -1
			}
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if f.requests.Load() == 1 {
					f.data = content(90_000)
					if change == "etag" {
						f.data, f.etag = content(100_000), `"v2"`
					}
				}
				f.ServeHTTP(w, r)
			})
			_, _, err := read(t.Context(), options(serve(t, h)))
			wantReason(t, err, source.ReasonChanged, failure.Terminal)
		})
	}
}

func TestOpenContinuesAtOffset(t *testing.T) {
	data := content(100_000)
	f := &file{data: data, etag: `"v1"`}
	o := options(serve(t, f))
	for _, offset := range []int64{1, 60_000, 100_000} {
		o.Offset, o.Validator = offset, source.Validator{ETag: `"v1"`}
		got, r, err := read(t.Context(), o)
		if err != nil || !bytes.Equal(got, data[offset:]) || r.Size() != 100_000 {
			t.Errorf("offset %d: got %d bytes, %v", offset, len(got), err)
		}
	}
	o.Validator.ETag = `"v0"`
	_, _, err := read(t.Context(), o)
	wantReason(t, err, source.ReasonChanged, failure.Terminal)
	o.Validator = source.Validator{}
	_, _, err = read(t.Context(), o)
	wantReason(t, err, source.ReasonCannotBeResumed, failure.Temporary)
}

func TestOpenClassifiesAnswers(t *testing.T) {
	cases := []struct {
		status   int
		reason   failure.Reason
		class    failure.Class
		requests int64
	}{
		{404, source.ReasonNotFound, failure.Terminal, 1},
		{410, source.ReasonNotFound, failure.Terminal, 1},
		{401, source.ReasonDenied, failure.Terminal, 1},
		{403, source.ReasonDenied, failure.Terminal, 1},
		{418, source.ReasonResponse, failure.Terminal, 1},
		{204, source.ReasonResponse, failure.Terminal, 1},
		{429, source.ReasonUnavailable, failure.Temporary, 4},
		{503, source.ReasonUnavailable, failure.Temporary, 4},
	}
	for _, c := range cases {
		t.Run(strconv.Itoa(c.status), func(t *testing.T) {
			var requests atomic.Int64
			_, err := source.Open(t.Context(), options(serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				w.Header().Set("Retry-After", "1") // bounded by Retry.Max
				w.WriteHeader(c.status)
			}))))
			wantReason(t, err, c.reason, c.class)
			if requests.Load() != c.requests {
				t.Errorf("%d requests, want %d", requests.Load(), c.requests)
			}
		})
	}
}

func TestOpenOutlastsShortOutage(t *testing.T) {
	f := &file{data: content(1000)}
	got, _, err := read(t.Context(), options(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.requests.Load() < 2 {
			f.requests.Add(1)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		f.ServeHTTP(w, r)
	}))))
	if err != nil || len(got) != 1000 {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, 10))
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
	})
	_, _, err := read(ctx, options(serve(t, h)))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestReadEndsTrickle(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Length", "1000000")
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
				w.Write([]byte{1})
				w.(http.Flusher).Flush()
			}
		}
	})
	o := options(serve(t, h))
	o.Timeouts = source.Timeouts{Stall: 50 * time.Millisecond, StallBytes: 1000}
	o.Retry.Attempts = 1
	_, _, err := read(t.Context(), o)
	if failure.IsTerminal(err) || failure.ReasonOf(err) == "" {
		t.Errorf("got %v, want a temporary failure", err)
	}
}

func TestOpenTrustsCABundle(t *testing.T) {
	f := &file{data: content(1000)}
	server := httptest.NewTLSServer(f)
	t.Cleanup(server.Close)
	o := options(server.URL)
	_, _, err := read(t.Context(), o)
	wantReason(t, err, source.ReasonCertificate, failure.Terminal)
	o.CABundle = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if got, _, err := read(t.Context(), o); err != nil || len(got) != 1000 {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	o.CABundle = []byte("not PEM")
	_, _, err = read(t.Context(), o)
	wantReason(t, err, source.ReasonInvalidCA, failure.Terminal)
}

func TestErrorsHideSecretsOfURL(t *testing.T) {
	url := serve(t, http.NotFoundHandler())
	secret := strings.Replace(url, "http://", "http://user:hunter2@", 1) + "?token=hunter2"
	refused := strings.Replace(secret, "127.0.0.1", "127.0.0.2", 1)
	for _, u := range []string{secret, "ht!tp://user:hunter2@x", "ftp://user:hunter2@x/", refused} {
		_, err := source.Open(t.Context(), options(u))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v", u, err)
		}
	}
}
