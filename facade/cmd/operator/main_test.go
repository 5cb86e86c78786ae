package main

import (
	"strings"
	"testing"
)

func TestProcessSaysWhatIsMissing(t *testing.T) {
	peers := []string{"--image-service=127.0.0.1:1", "--disk-service=127.0.0.1:1", "--network-service=127.0.0.1:1", "--vm-service=127.0.0.1:1", "--snapshot-service=127.0.0.1:1"}
	for _, test := range []struct {
		name, want string
		arguments  []string
	}{
		{"peers", "--vm-service is required", nil},
		{"a kubeconfig", "kubeconfig", append(peers, "--kubeconfig=/nowhere")},
	} {
		if err := run(t.Context(), test.arguments); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("without %s it says %v", test.name, err)
		}
	}
}
