package cli

import (
	"bytes"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"orlop.dev/facade/home"
)

func TestFlagsOfUpReachTheDaemonAsTheyWereGiven(t *testing.T) {
	settings := home.DefaultSettings()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	settings.Bind(flags)
	given := []string{
		"--allow-image-source=127.0.0.0/8", "--allow-image-source=10.0.0.0/8",
		"--home=elsewhere", "--network=user", "--nodes=3", "--verbose",
	}
	if err := flags.Parse(given); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"--allow-image-source=127.0.0.0/8", "--allow-image-source=10.0.0.0/8",
		"--network=user", "--nodes=3", "--verbose=true",
	}
	if got := changed(flags); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestVMIsNamedWithOrWithoutItsNamespace(t *testing.T) {
	c := &client{namespace: "mine"}
	for argument, want := range map[string]objectName{
		"linux-vm":       {namespace: "mine", name: "linux-vm"},
		"linux-vm.other": {namespace: "other", name: "linux-vm"},
	} {
		if got := c.parse(argument); got != want {
			t.Errorf("%s is %v, want %v", argument, got, want)
		}
	}
}

func TestExitCodeSaysWhatHappened(t *testing.T) {
	ended := exec.Command("sh", "-c", "exit 7").Run()
	for _, test := range []struct {
		name string
		err  error
		want int
		told bool
	}{
		{"a program in our stead", ended, 7, false},
		{"nothing runs", ErrNotRunning, exitNotRunning, true},
		{"anything else", errors.New("else"), 1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			if got := Fail(&out, test.err); got != test.want || (out.Len() > 0) != test.told {
				t.Errorf("got %d and %q", got, &out)
			}
		})
	}
}

func TestCommandWithoutADaemonSaysHowToStartOne(t *testing.T) {
	for _, line := range [][]string{
		{"orlop", "console", "vm"}, {"orlop", "start", "vm"}, {"orlop", "status"}, {"orlop", "port-forward", "vm", "22"},
		{"/usr/bin/orlop", "kubectl", "get", "vm"}, {"d8", "k", "get", "vm"}, {"d8", "v", "console", "vm"}, {"kubectl-v", "console", "vm"},
	} {
		t.Setenv(home.Variable, t.TempDir())
		command := New("test", line)
		command.SetOut(new(bytes.Buffer))
		if err := command.ExecuteContext(t.Context()); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%q: got %v", line, err)
		}
	}
}

func TestExamplesSayTheNameThatWasCalled(t *testing.T) {
	t.Setenv(home.Variable, t.TempDir())
	for want, line := range map[string][]string{
		"  orlop ssh cloud@linux-vm\n":     {"orlop", "ssh", "--help"},
		"  d8 v ssh cloud@linux-vm\n":      {"d8", "v", "ssh", "--help"},
		"  kubectl v ssh cloud@linux-vm\n": {"kubectl-v", "ssh", "--help"},
	} {
		command := New("test", line)
		var out bytes.Buffer
		command.SetOut(&out)
		if err := command.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%q says %s, %v", line, &out, err)
		}
	}
}

func TestKubectlCompletesItsPlugin(t *testing.T) {
	t.Setenv(home.Variable, t.TempDir())
	command := New("test", []string{"kubectl_complete-v", "port-f"})
	var out bytes.Buffer
	command.SetOut(&out)
	command.SetErr(new(bytes.Buffer))
	if err := command.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "port-forward\t") {
		t.Errorf("offers %q", &out)
	}
}
