package rest_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"testing"

	"github.com/coder/websocket"
	"google.golang.org/grpc"

	vmv1 "orlop.dev/gen/orlop/vm/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/kit/serve"
)

const (
	machines       = "/apis/subresources.virtualization.deckhouse.io/v1alpha2/namespaces/default/virtualmachines"
	socketProtocol = "plain.virtualization.deckhouse.io"
)

// echoes are VMs whose consoles say what is typed in capitals, and go away when
// they are told to. The VM "off" doesn't run.
type echoes struct {
	vmv1.UnimplementedVirtualMachineServiceServer
}

func (echoes) AttachConsole(call grpc.BidiStreamingServer[vmv1.AttachConsoleRequest, vmv1.AttachConsoleResponse]) error {
	first, err := call.Recv()
	if err != nil {
		return err
	}
	gone := fault.New(fault.NotReady, "VirtualMachineNotRunning", "the VM stopped")
	if first.GetName() == "off" {
		return gone
	}
	if err := call.SendHeader(nil); err != nil {
		return err
	}
	for {
		typed, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if string(typed.GetInput()) == "poweroff" {
			return gone
		}
		if err := call.Send(&vmv1.AttachConsoleResponse{Output: bytes.ToUpper(typed.GetInput())}); err != nil {
			return err
		}
	}
}

func newEchoes(t *testing.T) *door {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	authority, err := serve.OpenAuthority(t.TempDir())
	check(t, err)
	listener := listen(t)
	conn, err := serve.Dial(listener.Addr().String(), serve.ClientTLS(authority.Pool()))
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return openDoor(t, authority, serve.Part{
		Name: "vm", Ready: func(context.Context) error { return nil },
		Register: func(r grpc.ServiceRegistrar) error {
			vmv1.RegisterVirtualMachineServiceServer(r, echoes{})
			return nil
		},
	}, conn, listener, logger)
}

// socket opens a console as a program does, or, without a header, as a browser.
func (d *door) socket(t *testing.T, header http.Header, protocols ...string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	socket, _, err := websocket.Dial(ctx, d.url+machines+"/linux-vm/console", &websocket.DialOptions{
		HTTPClient: d.client, HTTPHeader: header, Subprotocols: protocols,
	})
	check(t, err)
	t.Cleanup(func() { _ = socket.CloseNow() })
	if socket.Subprotocol() != socketProtocol {
		t.Errorf("the protocol is %q", socket.Subprotocol())
	}
	return socket
}

func TestConsoleByWebSocket(t *testing.T) {
	d := newEchoes(t)
	bearer := http.Header{"Authorization": {"Bearer " + adminToken}}
	fromBrowser := "base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(adminToken))
	for name, socket := range map[string]*websocket.Conn{
		"a program": d.socket(t, bearer, socketProtocol),
		"a browser": d.socket(t, nil, fromBrowser, socketProtocol),
	} {
		check(t, socket.Write(t.Context(), websocket.MessageBinary, []byte("hello")))
		if kind, said, err := socket.Read(t.Context()); err != nil || kind != websocket.MessageBinary || string(said) != "HELLO" {
			t.Errorf("%s: the console says %q, %v", name, said, err)
		}
		check(t, socket.Write(t.Context(), websocket.MessageBinary, []byte("poweroff")))
		_, _, err := socket.Read(t.Context())
		var end websocket.CloseError
		if !errors.As(err, &end) || end.Code != websocket.StatusInternalError || end.Reason != "the VM stopped" {
			t.Errorf("%s: the socket ends with %v", name, err)
		}
	}
}

func TestWebSocketThatCanNotBeIsAnOrdinaryRefusal(t *testing.T) {
	d := newEchoes(t)
	for _, test := range []struct {
		name, path, token string
		code              int
		reason            string
	}{
		{"a VM that is off", "/off/console", "", http.StatusBadRequest, "VirtualMachineNotRunning"},
		{"no credential", "/linux-vm/console", "none", http.StatusUnauthorized, "CredentialRequired"},
		{"no right", "/linux-vm/console", viewerToken, http.StatusForbidden, "Forbidden"},
		{"something else", "/linux-vm/usb", "", http.StatusNotFound, "RouteUnknown"},
		{"no port", "/linux-vm/portforward", "", http.StatusBadRequest, "Invalid"},
		{"a port of UDP", "/linux-vm/portforward?protocol=udp&port=53", "", http.StatusBadRequest, "Invalid"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d.ask(t, request{method: http.MethodGet, path: machines + test.path, token: test.token}).refusal(t, test.code, test.reason)
		})
	}
}
