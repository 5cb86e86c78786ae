package kubernetes

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestHuntEndsStraysAndNobodyElse(t *testing.T) {
	ours, theirs := folder(t.TempDir()), folder(t.TempDir())
	cases := map[string]struct {
		binary, name, marker string
		gone                 bool
	}{
		"an API server of the folder":          {"kube", apiserverName, apiserverMarker(ours), true},
		"a controller manager of the folder":   {"kube", controllerManagerName, controllerManagerMarker(ours), true},
		"an API server of another folder":      {"kube", apiserverName, apiserverMarker(theirs), false},
		"another program with the argument":    {"other", apiserverName, apiserverMarker(ours), false},
		"another name with the argument":       {"kube", "kubectl", apiserverMarker(ours), false},
		"a name with the argument of another":  {"kube", apiserverName, controllerManagerMarker(ours), false},
		"the argument as a part of a sentence": {"kube", apiserverName, "look: " + apiserverMarker(ours), false},
	}
	dir := t.TempDir()
	ended := map[string]<-chan error{}
	running := map[string]*exec.Cmd{}
	for what, c := range cases {
		running[what], ended[what] = pose(t, filepath.Join(dir, c.binary), c.name, c.marker)
	}
	search := hunt{binary: "kube", markers: markers(ours), logger: slog.New(slog.DiscardHandler)}
	check(t, search.run(t.Context()))
	for what, c := range cases {
		if c.gone {
			if err := <-ended[what]; err == nil { // the hunt doesn't return before it is gone
				t.Errorf("%s ended by itself", what)
			}
			continue
		}
		if got := search.look(running[what].Process.Pid); got != stranger {
			t.Errorf("%s is seen as %v", what, got)
		}
		select {
		case err := <-ended[what]:
			t.Errorf("%s was ended: %v", what, err)
		default:
		}
	}
	check(t, search.run(t.Context())) // nothing left
}

// pose runs a shell under another file name and argument zero, with an argument that it ignores, until its input ends with the test.
func pose(t *testing.T, binary, name, argument string) (*exec.Cmd, <-chan error) {
	t.Helper()
	if _, err := os.Stat(binary); err != nil {
		content, err := os.ReadFile("/bin/sh")
		check(t, err)
		check(t, os.WriteFile(binary, content, 0o700))
	}
	shell := &exec.Cmd{Path: binary, Args: []string{name, "-c", "echo; read wait", "shell", argument}}
	_, err := shell.StdinPipe()
	check(t, err)
	output, err := shell.StdoutPipe()
	check(t, err)
	check(t, shell.Start())
	_, err = output.Read(make([]byte, 1)) // it runs
	check(t, err)
	ended := make(chan error, 1)
	go func() { ended <- shell.Wait() }()
	t.Cleanup(func() { _ = shell.Process.Kill() })
	return shell, ended
}
