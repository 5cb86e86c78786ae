package standalone

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/pflag"
	"google.golang.org/grpc"

	"orlop.dev/kit/serve"
)

// Peer is a service that a process calls. Its address is the flag NAME-service.
type Peer struct {
	Name string
	// Optional allows the process to do without an address.
	Optional bool
}

// Peers are the services that a process calls, and who it is to them.
type Peers struct {
	peers                            []Peer
	addresses                        []string // of peers, in their order
	anonymous                        bool
	caFile, certificateFile, keyFile string
}

// NewPeers lists peers. Bind, then Dial.
func NewPeers(peers ...Peer) *Peers {
	return &Peers{peers: peers, addresses: make([]string, len(peers))}
}

// NewAnonymousPeers is NewPeers for a process that is nobody itself and hands on
// its callers' credentials.
func NewAnonymousPeers(peers ...Peer) *Peers {
	p := NewPeers(peers...)
	p.anonymous = true
	return p
}

// Bind makes flags: an address for each peer, and the files of the identity
// that all of them are shown.
func (p *Peers) Bind(fs *pflag.FlagSet) {
	if len(p.peers) == 0 {
		return
	}
	for i, peer := range p.peers {
		fs.StringVar(&p.addresses[i], peer.Name+"-service", "", "host:port of the "+peer.Name+" service")
	}
	fs.StringVar(&p.caFile, "ca", "", "PEM file with the authority of the other services' certificates (the system's if empty)")
	if p.anonymous {
		return
	}
	fs.StringVar(&p.certificateFile, "client-certificate", "", "PEM file with the certificate that the other services are shown")
	fs.StringVar(&p.keyFile, "client-key", "", "PEM file with its key")
}

// Dial prepares the connections. It waits for nobody: peers may be down. The
// error names every flag that is missing or wrong.
func (p *Peers) Dial() (Connections, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	connections := Connections{}
	for i, peer := range p.peers {
		if p.addresses[i] == "" {
			continue
		}
		identity, err := clientTLS(p.caFile, p.certificateFile, p.keyFile)
		if err != nil {
			return nil, errors.Join(err, connections.Close())
		}
		if connections[peer.Name], err = serve.Dial(p.addresses[i], identity); err != nil {
			delete(connections, peer.Name)
			return nil, errors.Join(fmt.Errorf("%s-service: %w", peer.Name, err), connections.Close())
		}
	}
	return connections, nil
}

func (p *Peers) validate() error {
	var problems []error
	for i, peer := range p.peers {
		address := p.addresses[i]
		if address == "" && peer.Optional {
			continue
		}
		if address == "" {
			problems = append(problems, fmt.Errorf("--%s-service is required", peer.Name))
		} else if _, _, err := net.SplitHostPort(address); err != nil {
			problems = append(problems, fmt.Errorf("--%s-service: %q is not host:port", peer.Name, address))
		}
	}
	return errors.Join(problems...)
}

// Connections are open connections by the peers' names.
type Connections map[string]*grpc.ClientConn

// To is the connection to a peer; nil where there is none.
func (c Connections) To(name string) grpc.ClientConnInterface {
	if conn, ok := c[name]; ok {
		return conn
	}
	return nil
}

// ToService is the connection to the peer that has a gRPC service: the peer of
// orlop.disk.v1.VirtualDiskService is disk.
func (c Connections) ToService(fullName string) (grpc.ClientConnInterface, error) {
	parts := strings.Split(fullName, ".")
	if len(parts) > 1 {
		if conn, ok := c[parts[1]]; ok {
			return conn, nil
		}
	}
	return nil, fmt.Errorf("no peer has %s", fullName)
}

// Close closes all of them.
func (c Connections) Close() error {
	var failed []error
	for _, conn := range c {
		failed = append(failed, conn.Close())
	}
	return errors.Join(failed...)
}
