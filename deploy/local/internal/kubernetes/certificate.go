package kubernetes

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"time"
)

const (
	validity = 10 * 365 * 24 * time.Hour
	renewal  = validity / 10 // what has less left than this is made anew at the next start
)

// A pair is a private key and its certificate.
type pair struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

// prepareAuthority returns the folder's own CA.
func prepareAuthority(dir folder) (pair, error) {
	if found, err := readPair(dir, authorityFile); err != nil || found.lasts() {
		return found, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Orlop's local Kubernetes"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	return makePair(dir, authorityFile, template, nil)
}

// prepareServing sees to the certificate that kube-apiserver shows at the address: one that clients of the CA believe.
func prepareServing(dir folder, authority pair, address netip.Addr) error {
	found, err := readPair(dir, servingFile)
	if err != nil {
		return err
	}
	if found.lasts() && found.certificate.VerifyHostname(address.String()) == nil && found.certificate.CheckSignatureFrom(authority.certificate) == nil {
		return nil
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: apiserverName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		IPAddresses: []net.IP{
			address.AsSlice(),
			net.IPv4(127, 0, 0, 1),
			ServiceNetwork.Addr().Next().AsSlice(), // the Service "kubernetes"
		},
	}
	_, err = makePair(dir, servingFile, template, &authority)
	return err
}

// prepareAccountKey sees to the key that service account tokens are signed with. A new one would void them all.
func prepareAccountKey(dir folder) error {
	if _, err := os.Stat(dir.path(accountKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, encoded, err := newKey()
	if err != nil {
		return err
	}
	return dir.write(accountKeyFile, encoded)
}

// makePair makes a key and its certificate, signed by the authority or else by itself, and writes both into one file.
func makePair(dir folder, name string, template *x509.Certificate, authority *pair) (pair, error) {
	key, encoded, err := newKey()
	if err != nil {
		return pair{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return pair{}, err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour) // clocks are set back now and then
	template.NotAfter = time.Now().Add(validity)
	parent, signer := template, crypto.Signer(key)
	if authority != nil {
		parent, signer = authority.certificate, authority.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return pair{}, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return pair{}, err
	}
	made := pair{key: key, certificate: certificate}
	return made, dir.write(name, append(encoded, made.certificatePEM()...))
}

// readPair returns the pair in a file, or the zero pair if there is no file.
func readPair(dir folder, name string) (pair, error) {
	content, err := os.ReadFile(dir.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return pair{}, nil
	}
	if err != nil {
		return pair{}, err
	}
	both, err := tls.X509KeyPair(content, content)
	if err != nil {
		return pair{}, err
	}
	key, ours := both.PrivateKey.(*ecdsa.PrivateKey)
	if !ours {
		return pair{}, x509.ErrUnsupportedAlgorithm
	}
	return pair{key: key, certificate: both.Leaf}, nil
}

// lasts tells whether there is a pair that needs no renewal yet.
func (p pair) lasts() bool {
	return p.certificate != nil && time.Until(p.certificate.NotAfter) > renewal
}

func (p pair) certificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.certificate.Raw})
}

// newKey makes a private key, and its PEM form as both Kubernetes and crypto/tls read it.
func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
