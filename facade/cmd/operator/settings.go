package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	authentication "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"orlop.dev/facade/kubernetes"
	"orlop.dev/kit/resource/kind"
	"orlop.dev/kit/serve/standalone"
)

// settings are where the API server is, and where it finds the webhook.
type settings struct {
	kubeconfig                       string
	listen, url                      string
	certificateFile, keyFile, caFile string
	secretFile                       string
	publish                          bool
	leaderElection                   string
}

func (s *settings) bind(fs *pflag.FlagSet) {
	fs.StringVar(&s.kubeconfig, "kubeconfig", "", "kubeconfig of the API server (that of the pod's own cluster if empty)")
	fs.StringVar(&s.listen, "webhook-address", "127.0.0.1:9443", "host:port of the admission webhook")
	fs.StringVar(&s.url, "webhook-url", "", "how the API server reaches the webhook, without its path (https:// and webhook-address if empty)")
	fs.StringVar(&s.certificateFile, "tls-certificate", "", "PEM file with the webhook's certificate")
	fs.StringVar(&s.keyFile, "tls-key", "", "PEM file with its key")
	fs.StringVar(&s.caFile, "tls-ca", "", "PEM file with the authority of the webhook's certificate")
	fs.StringVar(&s.secretFile, "webhook-secret-file", "", "file with a word in the webhook's path that replicas share (a random one if empty)")
	fs.BoolVar(&s.publish, "publish", false, "make Node and StorageClass objects of what the services have")
	fs.StringVar(&s.leaderElection, "leader-election-namespace", "", "namespace of the Lease by which one of several processes is elected (none if empty)")
}

func (s *settings) operator(ctx context.Context) (kubernetes.Options, error) {
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig)
	if err != nil {
		return kubernetes.Options{}, fmt.Errorf("kubeconfig: %w", err)
	}
	config.QPS = -1 // the API server says when there are too many requests
	user, err := whoAmI(ctx, config)
	if err != nil {
		return kubernetes.Options{}, err
	}
	certificate, err := tls.LoadX509KeyPair(s.certificateFile, s.keyFile)
	if err != nil {
		return kubernetes.Options{}, fmt.Errorf("tls-certificate and tls-key: %w", err)
	}
	authority, err := os.ReadFile(s.caFile)
	if err != nil {
		return kubernetes.Options{}, fmt.Errorf("tls-ca: %w", err)
	}
	if s.url == "" {
		s.url = "https://" + s.listen
	}
	secret, err := s.secret()
	if err != nil {
		return kubernetes.Options{}, err
	}
	return kubernetes.Options{
		REST: config, User: user, Listen: s.listen, URL: s.url, WebhookSecret: secret,
		Certificate: certificate, CABundle: authority, Publish: s.publish, LeaderElection: s.leaderElection,
	}, nil
}

func (s *settings) secret() (string, error) {
	if s.secretFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(s.secretFile)
	if err != nil {
		return "", fmt.Errorf("webhook-secret-file: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// whoAmI is the user name that the API server knows the operator by: the
// webhook is not asked about that user's writes.
func whoAmI(ctx context.Context, config *rest.Config) (string, error) {
	client, err := clientset.NewForConfig(config)
	if err != nil {
		return "", err
	}
	self, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authentication.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("ask the API server who its user is: %w", err)
	}
	return self.Status.UserInfo.Username, nil
}

func byKind(c standalone.Connections) func(*kind.Kind) (grpc.ClientConnInterface, error) {
	return func(k *kind.Kind) (grpc.ClientConnInterface, error) { return c.ToService(string(k.Service)) }
}

func newPeers() *standalone.Peers {
	return standalone.NewPeers(
		standalone.Peer{Name: "image"}, standalone.Peer{Name: "disk"},
		standalone.Peer{Name: "network"}, standalone.Peer{Name: "vm"},
		standalone.Peer{Name: "snapshot"},
	)
}

// newLogger gives the libraries of Kubernetes, which have loggers of their own,
// the same one.
func newLogger() *slog.Logger {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", "operator")
	klog.SetSlogLogger(logger)
	ctrl.SetLogger(logr.FromSlogHandler(logger.Handler()))
	return logger
}
