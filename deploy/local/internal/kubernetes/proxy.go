package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"orlop.dev/deploy/local/internal/relay"
)

const (
	proxyName = "kube-proxy"
	proxyUser = "system:kube-proxy" // the API's own roles are bound to this name

	// proxyPause is between the end of one kube-proxy and the start of the next.
	proxyPause = 10 * time.Second
)

// ErrNoNamespace means that the network namespace for kube-proxy is not there.
var ErrNoNamespace = errors.New("no such network namespace")

// Proxy says where kube-proxy serves.
type Proxy struct {
	// Namespace is the path of the network namespace in which Services lead to Pods.
	Namespace string
	// Node is the name of the node that kube-proxy is for, Address its address in the namespace. Node ports are served on every address.
	Node    string
	Address netip.Addr
}

// StartProxy starts kube-proxy in a network namespace, once, and again whenever it ends: the API is as good without it. It returns
// ErrNoNamespace where the namespace isn't there: it may be tried again.
//
// The API, which listens outside, is let into the namespace at its own address, which must be a loopback one: whoever is not in the namespace
// itself can't reach it there.
func (s *Server) StartProxy(options Proxy) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return cmp.Or(s.err, ErrStopped)
	default:
	}
	if s.stopProxy != nil {
		return nil
	}
	api := s.credentials.address()
	listener, err := listenIn(options.Namespace, api)
	if err != nil {
		return fmt.Errorf("let the API into the namespace: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background()) // it ends in Stop
	s.stopProxy = cancel
	way := &relay.Relay{Listener: listener, Dial: func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", api)
	}}
	s.watchers.Go(func() { way.Run(ctx) })
	s.watchers.Go(func() { s.keepProxy(ctx, options) })
	return nil
}

// keepProxy sees to it that kube-proxy runs until ctx ends.
func (s *Server) keepProxy(ctx context.Context, options Proxy) {
	for ctx.Err() == nil {
		if err := s.runProxy(ctx, options); err != nil {
			s.logger.Error("Services don't lead to Pods for now", "error", err, "again in", proxyPause)
		}
		select {
		case <-ctx.Done():
		case <-time.After(proxyPause):
		}
	}
}

// runProxy runs kube-proxy once, and returns an error if it doesn't last until ctx ends.
func (s *Server) runProxy(ctx context.Context, options Proxy) error {
	child, err := startProcess(command{
		binary: s.options.Binary, name: proxyName, arguments: proxyArguments(s.dir, options),
		log: s.dir.path(proxyName + ".log"), namespace: options.Namespace,
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", proxyName, err)
	}
	s.logger.Info("started", "process", proxyName, "pid", child.pid(), "log", child.log)
	select {
	case <-child.ended:
		return child.unasked()
	case <-ctx.Done():
	}
	if killed := child.stop(context.WithoutCancel(ctx), stopGrace); killed {
		s.logger.Warn("killed a process that didn't end when asked", "process", child.name)
	}
	return nil
}

// proxyArguments is the command line of kube-proxy.
func proxyArguments(dir folder, options Proxy) []string {
	return []string{
		proxyMarker(dir),
		"--hostname-override=" + options.Node,
		"--bind-address=" + options.Address.String(),
		"--proxy-mode=nftables",
		"--masquerade-all", // guests are on one link: an answer that took the short way would come from a stranger
		"--nodeport-addresses=0.0.0.0/0",
		"--healthz-bind-address=127.0.0.1:10256",
		"--metrics-bind-address=127.0.0.1:10249",
		"--oom-score-adj=0",
		// The kernel's limits on connections are the machine's, not a namespace's.
		"--conntrack-max-per-core=0", "--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
	}
}

// proxyMarker is the argument by which the kube-proxy of a folder is known from any other.
func proxyMarker(dir folder) string { return "--kubeconfig=" + dir.path(proxyKubeconfig) }

// enter puts the calling thread, which must be locked, into a network namespace. The thread can't be given back.
func enter(namespace string) error {
	handle, err := os.Open(namespace)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNoNamespace, namespace)
	}
	if err != nil {
		return err
	}
	defer handle.Close()
	if err := unix.Setns(int(handle.Fd()), unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("setns", err)
	}
	return nil
}

// listenIn listens inside of a network namespace; the listener can be used from anywhere.
func listenIn(namespace, address string) (listener net.Listener, err error) {
	done := make(chan struct{})
	go onOwnThread(func() {
		defer close(done)
		if err = enter(namespace); err == nil {
			listener, err = net.Listen("tcp", address)
		}
	})
	<-done
	return listener, err
}

// onOwnThread runs a function on a thread that ends with the calling goroutine, as one that was in another namespace can't be given back. The
// first thread of the process is spared: it can't end, and /proc/self speaks of it.
func onOwnThread(function func()) {
	runtime.LockOSThread() // never unlocked: a goroutine that ends locked takes its thread along
	if unix.Gettid() != unix.Getpid() {
		function()
		return
	}
	done := make(chan struct{})
	go func() { // on another thread, as this one is held
		defer close(done)
		onOwnThread(function)
	}()
	<-done
	runtime.UnlockOSThread()
}
