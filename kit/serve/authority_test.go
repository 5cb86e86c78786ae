package serve_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"orlop.dev/kit/serve"
)

func open(t *testing.T, dir string) *serve.Authority {
	t.Helper()
	a, err := serve.OpenAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAuthorityIsFoundAgain(t *testing.T) {
	dir := t.TempDir()
	first, again := open(t, dir), open(t, dir)
	if !bytes.Equal(first.CertificatePEM(), again.CertificatePEM()) {
		t.Fatal("another authority was made")
	}
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key has mode %v, %v", info.Mode(), err)
	}
}

func TestAuthorityGoesOnAfterADeathBetweenItsFiles(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestAuthorityWithoutItsKeyIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := serve.OpenAuthority(dir); !errors.Is(err, serve.ErrKeyMissing) {
		t.Fatalf("got %v", err)
	}
}

func TestCertificatesHoldForWhatTheyWereIssued(t *testing.T) {
	a := open(t, t.TempDir())
	server, err := a.Server("orlop.test", "10.0.0.7")
	if err != nil {
		t.Fatal(err)
	}
	service, err := a.Service("disk")
	if err != nil {
		t.Fatal(err)
	}
	verify := func(p serve.Pair, host string, usage x509.ExtKeyUsage) error {
		c, err := p.TLS()
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}})
		return err
	}
	for _, host := range []string{"localhost", "127.0.0.1", "orlop.test", "10.0.0.7"} {
		if err := verify(server, host, x509.ExtKeyUsageServerAuth); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if verify(server, "elsewhere", x509.ExtKeyUsageServerAuth) == nil {
		t.Error("the server's certificate holds for another host")
	}
	if verify(server, "", x509.ExtKeyUsageClientAuth) == nil {
		t.Error("the server's certificate makes it a service")
	}
	if err := verify(service, "", x509.ExtKeyUsageClientAuth); err != nil {
		t.Error(err)
	}
	if verify(service, "", x509.ExtKeyUsageServerAuth) == nil {
		t.Error("a service's certificate makes it a server")
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	p, err := open(t, t.TempDir()).Service("disk")
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if out := fmt.Sprintf(verb, p); bytes.Contains([]byte(out), p.Key[:40]) || len(out) > 100 {
			t.Errorf("%s prints the key", verb)
		}
		if out := fmt.Sprintf(verb, serve.BearerToken("hush")); bytes.Contains([]byte(out), []byte("hush")) {
			t.Errorf("%s prints the token", verb)
		}
	}
}
