// Package kubernetes runs a Kubernetes API on one machine: a real kube-apiserver, kube-controller-manager and kube-proxy as child processes,
// with certificates, tokens and kubeconfigs of its own making.
//
// It owns a state directory and the processes that run on it. It must not know what the API is used for (no kind, no custom resource) nor how
// etcd is run: it is given an etcd and gives back a way to talk to the API.
//
// There is no kubelet and no scheduler: the API holds objects, and what is left of Kubernetes is what makes objects behave (garbage
// collection, namespaces, service accounts, quotas, aggregated roles, Services).
package kubernetes

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

const (
	// Admin is the user that Kubeconfig speaks for. It is always there and may do everything.
	Admin = "orlop:admin"
	// Masters is the group that may do everything, past RBAC: for the suite's own identities.
	Masters = "system:masters"

	// stopGrace is how long a child has to end in order before it is killed.
	stopGrace = 15 * time.Second
)

// A Server is a running API. Its methods may be called from several goroutines.
type Server struct {
	options     Options
	dir         folder
	lock        *os.File
	credentials credentials
	logger      *slog.Logger

	mu                sync.Mutex // guards what follows
	apiserver         *process
	controllerManager *process
	stopProxy         context.CancelFunc // nil before StartProxy
	err               error
	watchers          sync.WaitGroup
	done              chan struct{}
	finish            sync.Once // closes done
}

// Start prepares the state directory, ends what an earlier, killed owner of it left running, starts kube-apiserver and returns when that is
// ready to serve. ctx bounds the start only: what was started lives until Stop, or until this process dies.
//
// Start can be repeated after a crash at any point: keys and tokens that exist are kept, so clients that hold them go on. It returns ErrInUse
// while another Server runs on the directory, an error that wraps syscall.EADDRINUSE when the address is taken, and an *ExitError when
// kube-apiserver dies before it is ready.
func Start(ctx context.Context, options Options) (*Server, error) {
	options, err := options.complete()
	if err != nil {
		return nil, err
	}
	dir, err := openFolder(options.Dir)
	if err != nil {
		return nil, fmt.Errorf("prepare the state directory: %w", err)
	}
	lock, err := dir.lock()
	if err != nil {
		return nil, err
	}
	s := &Server{options: options, dir: dir, lock: lock, logger: options.Logger, done: make(chan struct{})}
	if err := s.start(ctx); err != nil {
		s.Stop(ctx)
		return nil, err
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	strays := hunt{binary: filepath.Base(s.options.Binary), markers: markers(s.dir), logger: s.logger}
	if err := strays.run(ctx); err != nil {
		return fmt.Errorf("end the processes that an earlier run left: %w", err)
	}
	reservation, err := reserve(s.options.Address)
	if err != nil {
		return fmt.Errorf("reserve %s: %w", s.options.Address, err)
	}
	defer reservation.release()
	if s.credentials, err = prepareCredentials(s.dir, reservation.address, s.options.Users); err != nil {
		return fmt.Errorf("prepare credentials: %w", err)
	}
	began := time.Now()
	if s.apiserver, err = s.launch(apiserverName, apiserverArguments(s.options.Etcd, s.dir, reservation.address)); err != nil {
		return err
	}
	if err := s.awaitReady(ctx); err != nil {
		return err
	}
	s.logger.Info("the Kubernetes API is ready", "address", s.URL(), "kubeconfig", s.Kubeconfig(), "took", time.Since(began))
	return nil
}

// StartControllerManager starts kube-controller-manager, once: later calls do nothing. It doesn't wait for the controllers to be at work. When
// the Server has come to its end it returns what Err says, or ErrStopped.
//
// Call it when the custom resource definitions are Established: the garbage collector looks at the kinds there are when it starts, and then
// only twice a minute.
func (s *Server) StartControllerManager() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return cmp.Or(s.err, ErrStopped)
	default:
	}
	if s.controllerManager != nil {
		return nil
	}
	var err error
	s.controllerManager, err = s.launch(controllerManagerName, controllerManagerArguments(s.dir))
	return err
}

// launch starts a child whose unasked end becomes the Server's.
func (s *Server) launch(name string, arguments []string) (*process, error) {
	child, err := startProcess(command{binary: s.options.Binary, name: name, arguments: arguments, log: s.dir.path(name + ".log")})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s.logger.Info("started", "process", name, "pid", child.pid(), "log", child.log)
	s.watchers.Go(func() {
		<-child.ended
		if err := child.unasked(); err != nil {
			s.logger.Error("a process of the Kubernetes API ended", "error", err)
			s.end(err)
		}
	})
	return child, nil
}

// URL is where the API is served: https, and the port that was chosen if Options left it open.
func (s *Server) URL() string { return s.credentials.url }

// Kubeconfig is the path of the kubeconfig file of Admin, mode 0600. Its context is the current one.
func (s *Server) Kubeconfig() string { return s.dir.path(adminKubeconfig) }

// RESTConfig is a new client configuration for Admin or one of Options.Users; the bearer token in it is the user's own, the same after a
// restart. It returns ErrUnknownUser for anybody else.
func (s *Server) RESTConfig(user string) (*rest.Config, error) { return s.credentials.restConfig(user) }

// Done is closed when a child has died unasked, or when Stop is through. Err says which.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is nil while both the API and its controllers run and after an orderly Stop, and an *ExitError once a child has died unasked.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Stop ends the children, the controllers first, and returns when none is left and the directory is free for another Start. A child that
// isn't gone some seconds after SIGTERM, or when ctx ends, is killed. Stopping twice is harmless.
func (s *Server) Stop(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopProxy != nil {
		s.stopProxy()
	}
	for _, child := range []*process{s.controllerManager, s.apiserver} {
		if child == nil {
			continue
		}
		if killed := child.stop(ctx, stopGrace); killed {
			s.logger.Warn("killed a process that didn't end when asked", "process", child.name)
		}
	}
	s.watchers.Wait()
	s.end(nil)
	s.lock.Close() // nothing was written to it: closing only gives the lock up
}

// end records how the Server came to its end. The first word counts.
func (s *Server) end(err error) {
	s.finish.Do(func() {
		s.err = err
		close(s.done)
	})
}
