package serve

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// ErrNoCertificate says that a PEM file has no certificate in it.
var ErrNoCertificate = errors.New("no certificate in the file")

func (c Config) tls() (*tls.Config, error) {
	if c.TLS != nil {
		return c.TLS, nil
	}
	certificate, err := tls.LoadX509KeyPair(c.CertificateFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	var clients *x509.CertPool
	if c.ClientCAFile != "" {
		if clients, err = LoadPool(c.ClientCAFile); err != nil {
			return nil, err
		}
	}
	return ServerTLS(certificate, clients), nil
}

// ServerTLS returns the TLS of a server. Callers need no certificate; one that
// they give must be of an authority in clients (nil: none is accepted).
func ServerTLS(certificate tls.Certificate, clients *x509.CertPool) *tls.Config {
	t := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
	if clients != nil {
		t.ClientCAs = clients
		t.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return t
}

// ClientTLS returns the TLS of a caller that trusts the authorities in roots
// (nil: the system's). A service adds its own certificate; a user needs none.
func ClientTLS(roots *x509.CertPool, certificates ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: roots, Certificates: certificates, MinVersion: tls.VersionTLS13}
}

// LoadPool reads a PEM file of authorities.
func LoadPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: %w", file, ErrNoCertificate)
	}
	return pool, nil
}
