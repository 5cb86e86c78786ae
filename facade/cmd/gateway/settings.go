package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/spf13/pflag"

	"orlop.dev/kit/serve"
)

// settings are where the door is, and how callers know that it is the right one.
type settings struct {
	address                  string
	certificateFile, keyFile string
}

func (s *settings) bind(fs *pflag.FlagSet) {
	fs.StringVar(&s.address, "address", "127.0.0.1:7780", "host:port of the REST door")
	fs.StringVar(&s.certificateFile, "tls-certificate", "", "PEM file with the door's certificate")
	fs.StringVar(&s.keyFile, "tls-key", "", "PEM file with its key")
}

func (s *settings) listen(ctx context.Context) (net.Listener, *tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(s.certificateFile, s.keyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("tls-certificate and tls-key: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.address)
	return listener, serve.ServerTLS(certificate, nil), err
}
