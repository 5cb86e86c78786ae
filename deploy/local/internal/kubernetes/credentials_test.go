package kubernetes

import (
	"bytes"
	"crypto/x509"
	"net"
	"net/netip"
	"os"
	"testing"
)

var users = []User{{Name: "jane", Groups: []string{"crew", "cooks, stewards"}}, {Name: "joe"}}

func TestPrepareCredentials(t *testing.T) {
	here, elsewhere := netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.2:1")
	keys := []string{authorityFile, accountKeyFile}
	cases := map[string]struct {
		before        func(*testing.T, folder) // what befalls the folder
		address       netip.AddrPort
		users         []User
		same, changed []string // files
	}{
		"again changes nothing": {
			address: here, users: users, same: append(keys, servingFile, authorityCertFile, tokensFile, adminKubeconfig, managerKubeconfig),
		},
		"at another address makes another serving certificate": {
			address: elsewhere, users: users, same: append(keys, tokensFile), changed: []string{servingFile, adminKubeconfig},
		},
		"without a user takes its token away": {
			address: here, users: users[:1], same: append(keys, servingFile, adminKubeconfig), changed: []string{tokensFile},
		},
		"makes what is missing": {
			before:  func(t *testing.T, dir folder) { check(t, os.Remove(dir.path(servingFile))) },
			address: here, users: users, same: append(keys, tokensFile), changed: []string{servingFile},
		},
		"with a new CA makes another serving certificate": {
			before:  func(t *testing.T, dir folder) { check(t, os.Remove(dir.path(authorityFile))) },
			address: here, users: users, same: []string{tokensFile, accountKeyFile}, changed: []string{authorityCertFile, servingFile, adminKubeconfig},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := folder(t.TempDir())
			_, err := prepareCredentials(dir, here, users)
			check(t, err)
			before := contents(t, dir)
			if c.before != nil {
				c.before(t, dir)
			}
			made, err := prepareCredentials(dir, c.address, c.users)
			check(t, err)
			after := contents(t, dir)
			for _, file := range c.same {
				if !bytes.Equal(before[file], after[file]) {
					t.Errorf("%s has changed", file)
				}
			}
			for _, file := range c.changed {
				if bytes.Equal(before[file], after[file]) {
					t.Errorf("%s hasn't changed", file)
				}
			}
			checkServing(t, dir, made, c.address)
		})
	}
}

func TestCredentialsAreReadableByTheOwnerOnly(t *testing.T) {
	dir, err := openFolder(t.TempDir())
	check(t, err)
	_, err = prepareCredentials(dir, loopback, users)
	check(t, err)
	entries, err := os.ReadDir(string(dir))
	check(t, err)
	for _, entry := range entries {
		info, err := entry.Info()
		check(t, err)
		if mode := info.Mode(); mode != 0o600 {
			t.Errorf("%s has mode %v", entry.Name(), mode)
		}
	}
}

func TestTokensDiffer(t *testing.T) {
	tokens, err := prepareTokens(folder(t.TempDir()), users)
	check(t, err)
	if jane, joe := tokens["jane"], tokens["joe"]; len(jane) < 20 || jane == joe {
		t.Errorf("the tokens are too short or the same")
	}
}

func TestPrepareCredentialsRefusesADamagedFile(t *testing.T) {
	for _, file := range []string{authorityFile, servingFile, tokensFile} {
		t.Run(file, func(t *testing.T) {
			dir := folder(t.TempDir())
			check(t, os.WriteFile(dir.path(file), []byte("damaged"), 0o600))
			if _, err := prepareCredentials(dir, loopback, users); err == nil {
				t.Error("no error: what the file held would be lost unnoticed")
			}
		})
	}
}

// checkServing checks that a client that trusts the CA believes the certificate, at the address and by name.
func checkServing(t *testing.T, dir folder, made credentials, address netip.AddrPort) {
	t.Helper()
	serving, err := readPair(dir, servingFile)
	check(t, err)
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(made.authority) {
		t.Fatal("the CA's certificate can't be read")
	}
	for _, name := range []string{address.Addr().String(), "127.0.0.1", "localhost", "kubernetes.default.svc", "10.222.0.1"} {
		if net.ParseIP(name) != nil {
			name = "[" + name + "]" // as x509 wants addresses
		}
		if _, err := serving.certificate.Verify(x509.VerifyOptions{DNSName: name, Roots: trusted}); err != nil {
			t.Errorf("a client of %s: %v", name, err)
		}
	}
}

func contents(t *testing.T, dir folder) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	entries, err := os.ReadDir(string(dir))
	check(t, err)
	for _, entry := range entries {
		files[entry.Name()], err = os.ReadFile(dir.path(entry.Name()))
		check(t, err)
	}
	return files
}
