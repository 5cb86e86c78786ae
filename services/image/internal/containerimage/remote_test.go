package containerimage_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"orlop.dev/services/image/internal/containerimage"
	"orlop.dev/services/image/internal/dvcr/dvcrtest"
	"orlop.dev/services/image/internal/source"
)

const secret = "a password that nobody may see"

// keychain is what a Secret with one entry holds.
func keychain(t *testing.T, registry, username, password string) func(context.Context) (containerimage.Keychain, error) {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(username + ":" + password))
	keys, err := containerimage.ParseKeychain(fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, registry, auth))
	if err != nil {
		t.Fatal(err)
	}
	return func(context.Context) (containerimage.Keychain, error) { return keys, nil }
}

// guarded is a real registry that wants a token, and the server that gives it for
// a password. Both are reached by the same address.
func guarded(t *testing.T, next http.Handler, address *string, tokens *atomic.Int64) http.Handler {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		username, password, _ := r.BasicAuth()
		if username != "vera" || password != secret || r.URL.Query().Get("scope") != "repository:disks/ubuntu:pull" || r.URL.Query().Get("service") != "shop" {
			http.Error(w, password, http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"token":"token-%d"}`, tokens.Add(1))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		token := fmt.Sprintf("Bearer token-%d", tokens.Load())
		if r.Method == http.MethodGet && r.Header.Get("Authorization") != token {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="shop"`, *address))
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		r.Header.Del("Authorization")
		next.ServeHTTP(w, r)
	})
	return mux
}

func TestTokenIsFetchedWithThePasswordOfTheRegistry(t *testing.T) {
	var address string
	var tokens atomic.Int64
	s := open(t, dvcrtest.Options{Wrap: func(next http.Handler) http.Handler { return guarded(t, next, &address, &tokens) }})
	address = s.Registry.Options.Endpoint
	want := disk(t, 64<<10)
	s.push(t, "private", plain(t, file("disk/a", want)))
	o := s.options(":private")
	o.Keychain = keychain(t, address, "vera", secret)
	wantDisk(t, o, want)

	o.Keychain = keychain(t, "example.org", "vera", secret)
	_, _, err := pull(t.Context(), o)
	wantReason(t, err, source.ReasonDenied, true)

	o.Keychain = keychain(t, address, "mallory", secret)
	_, _, err = pull(t.Context(), o)
	wantReason(t, err, source.ReasonDenied, true)
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the error tells the password: %v", err)
	}
}

func TestTokenThatExpiresIsFetchedAgain(t *testing.T) {
	var address string
	var tokens, broken atomic.Int64
	s := open(t, dvcrtest.Options{Wrap: func(next http.Handler) http.Handler {
		checked := guarded(t, next, &address, &tokens)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && broken.Add(1) == 1 {
				w = &breaking{ResponseWriter: w, left: 1 << 20}
				defer tokens.Add(1) // the old one is not known any more
			}
			checked.ServeHTTP(w, r)
		})
	}})
	address = s.Registry.Options.Endpoint
	want := disk(t, 4<<20)
	s.push(t, "private", plain(t, file("disk/a", want)))
	o := s.options(":private")
	o.Keychain = keychain(t, address, "vera", secret)
	wantDisk(t, o, want)
	if broken.Load() < 2 {
		t.Error("the layer was never asked for again")
	}
}

// breaking breaks a body off.
type breaking struct {
	http.ResponseWriter
	left int
}

func (b *breaking) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return b.ResponseWriter.Write(p)
}

func TestRegistryWithTLSAndAPassword(t *testing.T) {
	s := open(t, dvcrtest.Options{Secure: true})
	plainShop := open(t, dvcrtest.Options{Root: s.Root})
	want := disk(t, 64<<10)
	plainShop.push(t, "private", plain(t, file("disk/a", want)))
	o := s.options(":private")
	o.Keychain = keychain(t, "https://"+s.Registry.Options.Endpoint+"/v1/", dvcrtest.Username, dvcrtest.Password)
	_, _, err := pull(t.Context(), o)
	wantReason(t, err, source.ReasonCertificate, true)

	o.HTTP.CABundle = s.authority(t)
	wantDisk(t, o, want)

	o.Keychain = nil
	_, _, err = pull(t.Context(), o)
	wantReason(t, err, source.ReasonDenied, true)
}

func TestFailuresThatMayPassAreTriedAgain(t *testing.T) {
	var asked, last atomic.Int64
	var status atomic.Int64
	s := open(t, dvcrtest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && asked.Add(1) <= last.Load() {
				w.WriteHeader(int(status.Load()))
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	want := disk(t, 64<<10)
	s.push(t, "busy", plain(t, file("disk/a", want)))
	for _, code := range []int64{429, 500, 503} {
		status.Store(code)
		asked.Store(0)
		last.Store(2)
		wantDisk(t, s.options(":busy"), want)
		asked.Store(0)
		last.Store(1000)
		_, _, err := pull(t.Context(), s.options(":busy"))
		wantReason(t, err, source.ReasonUnavailable, false)
	}
	_, _, err := pull(t.Context(), s.options(":busy"))
	wantReason(t, err, source.ReasonUnavailable, false)
	last.Store(0)
	_, _, err = pull(t.Context(), s.options(":lost"))
	wantReason(t, err, source.ReasonNotFound, true)
}

func TestBrokenConnectionGoesOnWhereItBroke(t *testing.T) {
	var ranged atomic.Int64
	s := open(t, dvcrtest.Options{Wrap: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				if r.Header.Get("Range") != "" {
					ranged.Add(1)
				}
				w = &breaking{ResponseWriter: w, left: 2 << 20}
			}
			next.ServeHTTP(w, r)
		})
	}})
	want := disk(t, 7<<20)
	s.push(t, "broken", plain(t, file("disk/a", want)))
	wantDisk(t, s.options(":broken"), want)
	if ranged.Load() < 3 {
		t.Errorf("%d requests for the rest of the layer", ranged.Load())
	}
}

func TestAddressesAreJudgedAsThoseOfOtherSources(t *testing.T) {
	s := open(t, dvcrtest.Options{})
	s.push(t, "here", plain(t, file("disk/a", nil)))
	o := s.options(":here")
	o.HTTP.AllowPrivate = nil
	_, _, err := pull(t.Context(), o)
	wantReason(t, err, source.ReasonAddressRefused, true)

	elsewhere := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(elsewhere.Close)
	for name, redirect := range map[string]string{"manifests": "/manifests/", "layers": "/blobs/"} {
		t.Run(name, func(t *testing.T) {
			s := open(t, dvcrtest.Options{Wrap: func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodGet && strings.Contains(r.URL.Path, redirect) {
						http.Redirect(w, r, strings.Replace(elsewhere.URL, "127.0.0.1", "127.0.0.2", 1), http.StatusTemporaryRedirect)
						return
					}
					next.ServeHTTP(w, r)
				})
			}})
			s.push(t, "here", plain(t, file("disk/a", []byte("a"))))
			o := s.options(":here")
			o.HTTP.AllowPrivate = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
			_, _, err := pull(t.Context(), o)
			wantReason(t, err, source.ReasonAddressRefused, true)
		})
	}
}

func TestLayersElsewhereGetNoCredentials(t *testing.T) {
	var shown atomic.Bool
	var store http.Handler
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			shown.Store(true)
		}
		store.ServeHTTP(w, r)
	}))
	t.Cleanup(elsewhere.Close)
	var address string
	var tokens atomic.Int64
	s := open(t, dvcrtest.Options{Wrap: func(next http.Handler) http.Handler {
		store = next
		moved := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			next.ServeHTTP(w, r)
		})
		return guarded(t, moved, &address, &tokens)
	}})
	address = s.Registry.Options.Endpoint
	want := disk(t, 64<<10)
	s.push(t, "moved", plain(t, file("disk/a", want)))
	o := s.options(":moved")
	o.Keychain = keychain(t, address, "vera", secret)
	wantDisk(t, o, want)
	if shown.Load() {
		t.Error("another server was shown the credentials")
	}
}

func TestEndOfTheCallerIsNoFailureOfTheRegistry(t *testing.T) {
	s := open(t, dvcrtest.Options{})
	s.push(t, "here", plain(t, file("disk/a", nil)))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := pull(ctx, s.options(":here")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestKeychainFindsTheMostSpecialEntry(t *testing.T) {
	for _, text := range []string{`{"auths":`, `{"auths":{"a":{"auth":"%%%"}}}`, `{"auths":{"a":{"auth":"bm9jb2xvbg=="}}}`} {
		_, err := containerimage.ParseKeychain([]byte(text))
		if err == nil || strings.Contains(err.Error(), "%") || strings.Contains(err.Error(), "bm9") {
			t.Errorf("%s: got %v", text, err)
		}
	}
	s := open(t, dvcrtest.Options{Secure: true})
	plainShop := open(t, dvcrtest.Options{Root: s.Root})
	want := disk(t, 10)
	plainShop.push(t, "private", plain(t, file("disk/a", want)))
	endpoint := s.Registry.Options.Endpoint
	keys, err := containerimage.ParseKeychain(fmt.Appendf(nil,
		`{"auths":{%q:{"username":"wrong","password":"wrong"},%q:{"username":%q,"password":%q},%q:{"username":"wrong","password":"wrong"}}}`,
		endpoint, endpoint+"/disks", dvcrtest.Username, dvcrtest.Password, endpoint+"/disks/other"))
	if err != nil {
		t.Fatal(err)
	}
	o := s.options(":private")
	o.HTTP.CABundle = s.authority(t)
	o.Keychain = func(context.Context) (containerimage.Keychain, error) { return keys, nil }
	wantDisk(t, o, want)
	var out strings.Builder
	slog.New(slog.NewTextHandler(&out, nil)).Info("keys", "keys", keys)
	fmt.Fprintf(&out, "%v %+v %#v %s", keys, keys, keys, keys)
	if strings.Contains(out.String(), dvcrtest.Password) || strings.Contains(out.String(), "wrong") {
		t.Errorf("printed: %s", out.String())
	}
}
