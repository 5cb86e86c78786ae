package serve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"orlop.dev/kit/auth"
)

// How long certificates hold. Those of servers and services are made anew at
// each start of the process that needs them.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	// clockSkew lets a certificate hold at a peer whose clock is behind.
	clockSkew = 5 * time.Minute
)

// ErrKeyMissing says that a directory has an authority's certificate and not
// its key, so that it can't issue any more. Making another in silence would
// shut out everybody who trusts this one.
var ErrKeyMissing = errors.New("the authority's key is missing")

// Authority is the certificate authority of the suite on one machine. It is
// safe for concurrent use.
type Authority struct {
	pair        Pair
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// OpenAuthority reads the authority in a directory (ca.crt and ca.key, the
// latter for its owner only), or makes one. A process that dies in it leaves
// nothing that the next can't go on with.
func OpenAuthority(dir string) (*Authority, error) {
	certFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	pair, err := ReadPair(certFile, keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(certFile); err == nil {
			return nil, fmt.Errorf("%s: %w", keyFile, ErrKeyMissing)
		}
		if pair, err = newAuthorityPair(); err != nil {
			return nil, err
		}
		// Write puts the key there first, so a certificate always has its key.
		err = pair.Write(certFile, keyFile)
	}
	if err != nil {
		return nil, err
	}
	return authorityOf(pair)
}

func newAuthorityPair() (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "Orlop authority"},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Pair{}, err
	}
	return newPair(der, key)
}

func authorityOf(pair Pair) (*Authority, error) {
	both, err := pair.TLS()
	if err != nil {
		return nil, err
	}
	key, ok := both.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !both.Leaf.IsCA {
		return nil, errors.New("not an authority of the suite")
	}
	return &Authority{pair: pair, certificate: both.Leaf, key: key}, nil
}

// CertificatePEM returns what others need in order to trust the authority.
func (a *Authority) CertificatePEM() []byte { return a.pair.Certificate }

// Pool returns a pool with the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Server issues the certificate of a server that is reached at localhost and
// at the given host names and IP addresses.
func (a *Authority) Server(hosts ...string) (Pair, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "Orlop server"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return a.issue(template)
}

// Service issues the certificate by which one of the suite's own services is
// known to the others: an internal user (see package auth) of that name.
func (a *Authority) Service(name string) (Pair, error) {
	return a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: auth.InternalPrefix + name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (a *Authority) issue(template *x509.Certificate) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	now := time.Now()
	template.NotBefore, template.NotAfter = now.Add(-clockSkew), now.Add(leafLife)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return Pair{}, err
	}
	return newPair(der, key)
}
