package gateway

import (
	"context"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"orlop.dev/facade/internal/stream"
	"orlop.dev/kit/fault"
)

const (
	// socketPattern is where the platform has its web sockets (its API, "Transport").
	socketPattern = "GET /apis/subresources.virtualization.deckhouse.io/v1alpha2/namespaces/{namespace}/virtualmachines/{name}/{subresource}"
	// socketProtocol is bytes as they come, in binary messages.
	socketProtocol = "plain.virtualization.deckhouse.io"
	// socketCredential is a protocol that is none: a browser, which can't send an
	// Authorization header, says its token there, in unpadded base64url, as to a
	// Kubernetes API server.
	socketCredential = "base64url.bearer.authorization.k8s.io."
	// socketReasonBytes is how long the reason of an ending may be (RFC 6455, 5.5).
	socketReasonBytes = 123
)

// sockets is the door for consoles, screens and ports, as web sockets. The
// services judge who may.
type sockets struct {
	// ctx ends sockets.
	ctx              context.Context
	machines, guests grpc.ClientConnInterface
}

func (s *sockets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", r.Header.Get("Authorization"))
	far, err := s.open(ctx, r)
	if err != nil {
		writeError(w, err)
		return
	}
	defer far.Close()
	socket, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{socketProtocol}})
	if err != nil {
		return // Accept has answered
	}
	near := websocket.NetConn(ctx, socket, websocket.MessageBinary)
	// The caller was told: nothing is left to do about it here.
	_ = stream.Relay(near, far, func(err error) { _ = endSocket(socket, err) })
}

func endSocket(socket *websocket.Conn, err error) error {
	if err == nil {
		return socket.Close(websocket.StatusNormalClosure, "")
	}
	reason := fault.From(err).Message
	return socket.Close(websocket.StatusInternalError, reason[:min(len(reason), socketReasonBytes)])
}

// open reaches the VM before the socket is one, so that a refusal is an answer
// like any other.
func (s *sockets) open(ctx context.Context, r *http.Request) (*stream.Stream, error) {
	vm := stream.VM{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")}
	switch subresource := r.PathValue("subresource"); subresource {
	case "console":
		return stream.Console(ctx, s.machines, vm)
	case "vnc":
		return stream.Screen(ctx, s.machines, vm)
	case "portforward":
		port, err := portOf(r)
		if err != nil {
			return nil, err
		}
		return stream.Port(ctx, s.guests, vm, port)
	default:
		return nil, fault.New(fault.NotFound, "RouteUnknown", "a VM has no %q: there are console, vnc and portforward", subresource)
	}
}

func portOf(r *http.Request) (uint16, error) {
	query := r.URL.Query()
	if protocol := query.Get("protocol"); protocol != "" && protocol != "tcp" {
		return 0, fault.Refuse("protocol", "FieldValueNotSupported", "only tcp can be forwarded")
	}
	port, err := strconv.ParseUint(query.Get("port"), 10, 16)
	if err != nil || port == 0 {
		return 0, fault.Refuse("port", "FieldValueInvalid", "must be a number from 1 to 65535")
	}
	return uint16(port), nil
}

// takeSocketCredential makes a header of a credential among the protocols, and
// takes it away from them: it must not be answered with.
func takeSocketCredential(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		const header = "Sec-Websocket-Protocol"
		var protocols []string
		for _, line := range r.Header.Values(header) {
			for protocol := range strings.SplitSeq(line, ",") {
				protocols = append(protocols, strings.TrimSpace(protocol))
			}
		}
		at := slices.IndexFunc(protocols, func(p string) bool { return strings.HasPrefix(p, socketCredential) })
		if at >= 0 && r.Header.Get("Authorization") == "" {
			token, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(protocols[at], socketCredential))
			if err == nil {
				r.Header.Set("Authorization", "Bearer "+string(token))
			}
		}
		if at >= 0 {
			r.Header.Set(header, strings.Join(slices.Delete(protocols, at, at+1), ", "))
		}
		next.ServeHTTP(w, r)
	})
}
