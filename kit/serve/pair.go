package serve

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"

	"orlop.dev/kit/durable"
)

// Pair is a certificate and its key, in PEM. The key is a secret.
type Pair struct {
	Certificate []byte
	Key         []byte
}

func newPair(der []byte, key *ecdsa.PrivateKey) (Pair, error) {
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}, nil
}

// String keeps the key out of logs.
func (p Pair) String() string { return "(certificate and key)" }

// GoString keeps the key out of logs.
func (p Pair) GoString() string { return p.String() }

// TLS returns the pair as crypto/tls takes it.
func (p Pair) TLS() (tls.Certificate, error) { return tls.X509KeyPair(p.Certificate, p.Key) }

// ReadPair reads a pair that Write wrote. The error is fs.ErrNotExist where
// either file is missing.
func ReadPair(certificateFile, keyFile string) (Pair, error) {
	certificate, err := os.ReadFile(certificateFile)
	if err != nil {
		return Pair{}, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Certificate: certificate, Key: key}, nil
}

// Write writes the pair to two files, the key readable by its owner only. Each
// file is replaced as a whole, the key first.
func (p Pair) Write(certificateFile, keyFile string) error {
	if err := durable.WriteFile(keyFile, p.Key, 0o600); err != nil {
		return err
	}
	return durable.WriteFile(certificateFile, p.Certificate, 0o644)
}
