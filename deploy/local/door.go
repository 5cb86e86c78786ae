package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"orlop.dev/facade/home"
)

// doors are where the daemon listens, all on the loopback address. Listeners
// are open from the first step on, so that nobody takes their ports meanwhile.
type doors struct {
	rest, grpc, registry         net.Listener
	kubernetes, webhook, metrics netip.AddrPort // others listen there
	endpoints                    home.Endpoints
}

// door is one of the doors before it is open.
type door struct {
	name      string
	flag      string
	wanted    uint16 // 0: not named by the user
	preferred uint16 // the default
}

// TakenError says that somebody has a port that the user named.
type TakenError struct {
	Door, Flag string
	Port       uint16
	cause      error
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("port %d, which --%s asks for, can't be used: %v; name another one, or leave the flag out and a free one is taken",
		e.Port, e.Flag, e.cause)
}

func (e *TakenError) Unwrap() error { return e.cause }

func (d *daemon) openDoors(ctx context.Context) (string, error) {
	former, err := d.home.ReadEndpoints()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	o := &opening{ctx: ctx, former: former, doors: &doors{endpoints: home.Endpoints{}}}
	s := d.settings
	d.doors = o.doors
	d.stack.push("listeners", o.doors.close)
	o.doors.rest = o.listen(door{home.REST, "rest-port", s.RESTPort, home.DefaultRESTPort})
	o.doors.grpc = o.listen(door{home.GRPC, "grpc-port", s.GRPCPort, home.DefaultGRPCPort})
	o.doors.registry = o.listen(door{home.DVCR, "dvcr-port", s.RegistryPort, home.DefaultRegistryPort})
	if s.MetricsPort != 0 {
		o.doors.metrics = o.choose(door{home.Metrics, "metrics-port", s.MetricsPort, s.MetricsPort})
	}
	if d.wantsKubernetes() {
		o.doors.webhook = o.choose(door{home.Webhook, "", 0, home.DefaultWebhookPort})
	}
	if d.wantsKubernetes() && s.Kubeconfig == "" {
		o.doors.kubernetes = o.choose(door{home.Kubernetes, "kubernetes-port", s.KubernetesPort, home.DefaultKubernetesPort})
	}
	if o.err != nil {
		return "", o.err
	}
	if d.identity, err = openIdentity(d.home); err != nil {
		return "", fmt.Errorf("certificates: %w", err)
	}
	return strings.Join(o.moved, "; "), nil
}

// opening opens doors until one fails.
type opening struct {
	ctx    context.Context
	former home.Endpoints
	doors  *doors
	moved  []string // sentences on doors that are not where one expects them
	err    error
}

// listen opens a door: at the port that the user named, else where it was at the
// last start, else at the default one, else anywhere.
func (o *opening) listen(d door) net.Listener {
	if o.err != nil {
		return nil
	}
	var config net.ListenConfig
	var taken error
	for _, port := range d.candidates(o.former[d.name]) {
		listener, err := config.Listen(o.ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
		if err == nil {
			o.opened(d, listener.Addr().String())
			return listener
		}
		if !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EACCES) {
			o.err = err
			return nil
		}
		taken = err
	}
	o.err = &TakenError{Door: d.name, Flag: d.flag, Port: d.wanted, cause: taken}
	return nil
}

func (d door) candidates(former string) []uint16 {
	if d.wanted != 0 {
		return []uint16{d.wanted}
	}
	ports := []uint16{d.preferred, 0}
	if address, err := netip.ParseAddrPort(former); err == nil {
		ports = append([]uint16{address.Port()}, ports...)
	}
	return ports
}

func (o *opening) opened(d door, address string) {
	o.doors.endpoints[d.name] = address
	port := netip.MustParseAddrPort(address).Port()
	if d.wanted == 0 && port != d.preferred && o.former[d.name] != address {
		o.moved = append(o.moved, d.movedTo(port))
	}
}

// movedTo says that a door is not where one expects it.
func (d door) movedTo(port uint16) string {
	sentence := fmt.Sprintf("%s is on port %d because %d is taken", d.name, port, d.preferred)
	if d.flag != "" {
		sentence += fmt.Sprintf(" (--%s chooses another)", d.flag)
	}
	return sentence
}

// choose finds a free port for somebody else to listen on.
func (o *opening) choose(d door) netip.AddrPort {
	listener := o.listen(d)
	if listener == nil {
		return netip.AddrPort{}
	}
	o.err = listener.Close()
	return netip.MustParseAddrPort(listener.Addr().String())
}

// close closes what was never handed to a server; the others closed theirs.
func (d *doors) close() error {
	var failed []error
	for _, listener := range []net.Listener{d.rest, d.grpc, d.registry} {
		if listener == nil {
			continue
		}
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// announce writes what users need in order to come in.
func (d *daemon) announce(context.Context) (string, error) {
	if err := home.WriteFile(d.home.CACertificate(), d.identity.authority.CertificatePEM()); err != nil {
		return "", err
	}
	if d.cluster != nil && d.cluster.endpoint != "" {
		d.doors.endpoints[home.Kubernetes] = d.cluster.endpoint
	}
	return "", d.home.WriteEndpoints(d.doors.endpoints)
}
