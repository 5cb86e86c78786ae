package source_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"orlop.dev/services/image/internal/failure"
	"orlop.dev/services/image/internal/source"
)

// TestNameThatLeadsElsewhereIsJudgedAnew breaks the connection after each answer of
// 2,000 bytes, so that each next range is asked for by a name that may mean another
// host by then.
func TestNameThatLeadsElsewhereIsJudgedAnew(t *testing.T) {
	const here, there = "127.0.0.1", "127.0.0.2"
	only := []netip.Prefix{netip.MustParsePrefix(here + "/32")}
	for name, test := range map[string]struct {
		answers []string // the last one for good
		allowed []netip.Prefix
		reason  failure.Reason
		class   failure.Class
	}{
		"to an address that is allowed":     {[]string{here, there, here}, loopback, "", 0},
		"to one that is not":                {[]string{here, there}, only, source.ReasonAddressRefused, failure.Terminal},
		"from one that is not":              {[]string{there, here}, only, source.ReasonAddressRefused, failure.Terminal},
		"to several, of which one is":       {[]string{there + " " + here}, only, "", 0},
		"nowhere, and back":                 {[]string{here, "", here}, only, "", 0},
		"nowhere":                           {[]string{here, ""}, only, source.ReasonUnavailable, failure.Temporary},
		"to a public one and to one inside": {[]string{here, "10.255.255.1"}, only, source.ReasonAddressRefused, failure.Terminal},
	} {
		t.Run(name, func(t *testing.T) {
			f := &file{data: content(10_000), etag: `"v1"`, sends: func(int64) int { return 2_000 }}
			target, err := url.Parse(serveEverywhere(t, f))
			if err != nil {
				t.Fatal(err)
			}
			target.Host = net.JoinHostPort("images.example.", target.Port())
			o := options(target.String())
			o.AllowPrivate, o.Resolver = test.allowed, resolver(t, test.answers)
			got, _, err := read(t.Context(), o)
			if test.reason != "" {
				wantReason(t, err, test.reason, test.class)
				return
			}
			if err != nil || !bytes.Equal(got, f.data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// serveEverywhere serves at one port of two addresses.
func serveEverywhere(t *testing.T, h http.Handler) string {
	t.Helper()
	first := httptest.NewServer(h)
	t.Cleanup(first.Close)
	port := first.Listener.Addr().(*net.TCPAddr).Port
	listener, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.2:%d", port))
	if err != nil {
		t.Skipf("the port is taken at another address: %v", err)
	}
	second := &httptest.Server{Listener: listener, Config: &http.Server{Handler: h}}
	second.Start()
	t.Cleanup(second.Close)
	return first.URL + "/disk.img"
}

// resolver answers each question for an IPv4 address with the next of its answers:
// addresses, or nothing.
func resolver(t *testing.T, answers []string) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		question := make([]byte, 512)
		for asked := 0; ; {
			n, from, err := conn.ReadFrom(question)
			if err != nil {
				return
			}
			reply, address := answer(question[:n], answers[min(asked, len(answers)-1)])
			if address {
				asked++
			}
			_, _ = conn.WriteTo(reply, from) // who asked asks again
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp4", conn.LocalAddr().String())
	}}
}

// answer replies to a question, and reports whether it was for an IPv4 address.
func answer(question []byte, addresses string) (reply []byte, address bool) {
	var message dnsmessage.Message
	if message.Unpack(question) != nil || len(message.Questions) != 1 {
		return nil, false
	}
	asked := message.Questions[0]
	message.Response, message.Additionals = true, nil
	address = asked.Type == dnsmessage.TypeA
	if address {
		for _, text := range strings.Fields(addresses) {
			message.Answers = append(message.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: asked.Name, Type: asked.Type, Class: asked.Class},
				Body:   &dnsmessage.AResource{A: netip.MustParseAddr(text).As4()},
			})
		}
	}
	reply, _ = message.Pack()
	return reply, address
}
