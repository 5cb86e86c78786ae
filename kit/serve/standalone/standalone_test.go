package standalone

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestFlagsComeFromTheEnvironmentWhereTheCommandLineIsSilent(t *testing.T) {
	t.Setenv("SOME_SERVICE_FIRST", "of the environment")
	t.Setenv("SOME_SERVICE_SECOND_FLAG", "of the environment")
	var first, second string
	log := new(strings.Builder)
	err := Parse("some-service", []string{"--first=given"}, slog.New(slog.NewTextHandler(log, nil)), func(fs *pflag.FlagSet) {
		fs.StringVar(&first, "first", "", "")
		fs.StringVar(&second, "second-flag", "", "")
	})
	if err != nil || first != "given" || second != "of the environment" {
		t.Errorf("first is %q, second is %q, the error %v", first, second, err)
	}
	if !strings.Contains(log.String(), `second-flag="of the environment"`) {
		t.Errorf("the options are printed as %s", log)
	}
}

func TestPeersAreNamedByTheirServices(t *testing.T) {
	peers := NewPeers(Peer{Name: "disk"}, Peer{Name: "image", Optional: true})
	bind(t, peers, "--disk-service=127.0.0.1:1")
	connections, err := peers.Dial()
	if err != nil {
		t.Fatal(err)
	}
	defer connections.Close()
	if conn, err := connections.ToService("orlop.disk.v1.VirtualDiskService"); err != nil || conn != connections.To("disk") {
		t.Errorf("the disk service: %v, %v", conn, err)
	}
	for _, name := range []string{"orlop.image.v1.VirtualImageService", "disk", ""} {
		if _, err := connections.ToService(name); err == nil {
			t.Errorf("%q has a connection", name)
		}
	}
	if conn := connections.To("image"); conn != nil {
		t.Errorf("a peer without an address has the connection %v", conn)
	}
}

func TestPeersSayAllThatIsWrong(t *testing.T) {
	peers := NewPeers(Peer{Name: "disk"}, Peer{Name: "image"})
	bind(t, peers, "--disk-service=nowhere")
	_, err := peers.Dial()
	if err == nil || !strings.Contains(err.Error(), "--disk-service") || !strings.Contains(err.Error(), "--image-service") {
		t.Errorf("the error is %v", err)
	}
}

func TestAnonymousPeersAreShownNoCertificate(t *testing.T) {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	NewAnonymousPeers(Peer{Name: "disk"}).Bind(fs)
	if fs.Lookup("client-certificate") != nil || fs.Lookup("disk-service") == nil {
		t.Error("its flags are others")
	}
}

func TestGuardIsOneOfTwo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(file, []byte("secret,admin,1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		guard   guard
		refused bool
	}{
		{"none", guard{}, true},
		{"both", guard{tokenFile: file, kubeconfig: file}, true},
		{"a file that is not there", guard{tokenFile: file + "?"}, true},
		{"a kubeconfig that is none", guard{kubeconfig: file}, true},
		{"a file", guard{tokenFile: file}, false},
	} {
		if _, err := test.guard.open(); (err != nil) != test.refused {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestStoreWaitsForNobody: a process starts while etcd is down.
func TestStoreWaitsForNobody(t *testing.T) {
	client, err := (&store{endpoints: []string{"http://127.0.0.1:1"}}).open()
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if _, err := (&store{caFile: filepath.Join(t.TempDir(), "none")}).open(); err == nil {
		t.Error("a missing authority is no error")
	}
}

func bind(t *testing.T, peers *Peers, arguments ...string) {
	t.Helper()
	if err := Parse("test", arguments, slog.New(slog.NewTextHandler(io.Discard, nil)), peers.Bind); err != nil {
		t.Fatal(err)
	}
}
