package standalone

import (
	"crypto/tls"

	"github.com/spf13/pflag"
	clientv3 "go.etcd.io/etcd/client/v3"

	"orlop.dev/kit/serve"
)

// store is how the process reaches etcd.
type store struct {
	endpoints                        []string
	prefix                           string
	caFile, certificateFile, keyFile string
}

func (s *store) bind(fs *pflag.FlagSet) {
	fs.StringSliceVar(&s.endpoints, "etcd", []string{"http://127.0.0.1:2379"}, "endpoints of etcd")
	fs.StringVar(&s.prefix, "etcd-prefix", s.prefix, "where the service's objects are in etcd")
	fs.StringVar(&s.caFile, "etcd-ca", "", "PEM file with the authority of etcd's certificate")
	fs.StringVar(&s.certificateFile, "etcd-certificate", "", "PEM file with the certificate for etcd")
	fs.StringVar(&s.keyFile, "etcd-key", "", "PEM file with its key")
}

func (s *store) open() (*clientv3.Client, error) {
	config := clientv3.Config{Endpoints: s.endpoints}
	var err error
	if config.TLS, err = s.tls(); err != nil {
		return nil, err
	}
	return clientv3.New(config)
}

// tls is nil, for etcd on this machine, where no file is given.
func (s *store) tls() (*tls.Config, error) {
	if s.caFile == "" && s.certificateFile == "" {
		return nil, nil
	}
	return clientTLS(s.caFile, s.certificateFile, s.keyFile)
}

// clientTLS is the TLS of a caller, from files that need not be given: without
// an authority the system's are trusted, without a certificate none is shown.
func clientTLS(caFile, certificateFile, keyFile string) (*tls.Config, error) {
	t := serve.ClientTLS(nil)
	var err error
	if caFile != "" {
		if t.RootCAs, err = serve.LoadPool(caFile); err != nil {
			return nil, err
		}
	}
	if certificateFile == "" {
		return t, nil
	}
	certificate, err := tls.LoadX509KeyPair(certificateFile, keyFile)
	if err != nil {
		return nil, err
	}
	t.Certificates = []tls.Certificate{certificate}
	return t, nil
}
