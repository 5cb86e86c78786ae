package source_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/source"
)

func TestOpenRefusesAddressesThatAreNotPublic(t *testing.T) {
	for _, host := range []string{
		"127.0.0.1", "localhost", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
		"224.0.0.1", "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[::ffff:10.0.0.1]",
		"[64:ff9b::10.0.0.1]", "[2002:a00:1::1]", "2130706433",
	} {
		t.Run(host, func(t *testing.T) {
			o := options("http://" + host + ":9/")
			o.AllowPrivate = nil
			_, err := source.Open(t.Context(), o)
			if host == "2130706433" && failure.ReasonOf(err) == source.ReasonUnavailable {
				return // resolvers differ on whether this is an address at all
			}
			wantReason(t, err, source.ReasonAddressRefused, failure.Terminal)
			if err != nil && !strings.Contains(err.Error(), source.AllowOption) {
				t.Errorf("%v doesn't name the option that allows it", err)
			}
		})
	}
}

func TestOpenRefusesRedirectToAddressThatIsNotAllowed(t *testing.T) {
	o := options(serve(t, http.RedirectHandler("http://127.0.0.2:9/secret", http.StatusFound)))
	o.AllowPrivate = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	_, err := source.Open(t.Context(), o)
	wantReason(t, err, source.ReasonAddressRefused, failure.Terminal)
	if err != nil && !strings.Contains(err.Error(), "127.0.0.2") {
		t.Errorf("%v doesn't name the address", err)
	}
}

func TestRedirectsCarryNoCredentialsAcrossOrigins(t *testing.T) {
	seen := make(chan http.Header, 1)
	other := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Clone()
		w.Write([]byte("data"))
	}))
	first := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, other, http.StatusFound)
	}))
	got, _, err := read(t.Context(), options(strings.Replace(first, "http://", "http://u:p@", 1)+"?signature=s"))
	if err != nil || string(got) != "data" {
		t.Fatalf("got %q, %v", got, err)
	}
	header := <-seen
	for _, name := range []string{"Authorization", "Cookie", "Referer"} {
		if value := header.Get(name); value != "" {
			t.Errorf("%s: %q crossed origins", name, value)
		}
	}
}

func TestOpenLimitsRedirects(t *testing.T) {
	o := options(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
	})))
	_, err := source.Open(t.Context(), o)
	wantReason(t, err, source.ReasonRedirect, failure.Terminal)

	o = options(serve(t, http.RedirectHandler("file:///etc/passwd", http.StatusFound)))
	_, err = source.Open(t.Context(), o)
	wantReason(t, err, source.ReasonRedirect, failure.Terminal)
}
