package serve_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"orlop.dev/kit/serve"
)

// decided are the values of a few flags.
type decided struct {
	nodes int
	class string
	cidrs []string

	unknown []string
}

// apply reads a file of settings after a command line.
func apply(t *testing.T, content string, arguments ...string) (d decided, err error) {
	t.Helper()
	d = decided{nodes: 2, cidrs: []string{"10.66.10.0/24"}}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	fs.IntVar(&d.nodes, "nodes", d.nodes, "")
	fs.StringVar(&d.class, "default-storage-class", "", "")
	fs.StringSliceVar(&d.cidrs, "virtual-machine-cidrs", d.cidrs, "")
	if err := fs.Parse(arguments); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	serve.NameSetting(fs, "default-storage-class", "virtualDisks.defaultStorageClassName")
	d.unknown, err = serve.ApplySettings(fs, path)
	return d, err
}

func TestSettingsComeFromAFile(t *testing.T) {
	got, err := apply(t, `
virtualMachineCIDRs: [10.66.10.0/28, "fd66::/64"]
virtualDisks:
  defaultStorageClassName: local-wffc
nodes: 3
`)
	if err != nil || got.nodes != 3 || got.class != "local-wffc" || !slices.Equal(got.cidrs, []string{"10.66.10.0/28", "fd66::/64"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	got, err = apply(t, "nodes: 3\nvirtualMachineCIDRs: [10.0.0.0/24]", "--nodes=4", "--virtual-machine-cidrs=10.1.0.0/24")
	if err != nil || got.nodes != 4 || !slices.Equal(got.cidrs, []string{"10.1.0.0/24"}) {
		t.Errorf("the command line comes first; got %+v, %v", got, err)
	}
	if got, err := apply(t, ""); err != nil || got.nodes != 2 {
		t.Errorf("an empty file changes nothing; got %+v, %v", got, err)
	}
}

func TestSettingsThatNoFlagHasAreNamed(t *testing.T) {
	got, err := apply(t, "node: 3\nvirtualDisks: {defaultClass: a}\nnodes: 4")
	if err != nil || got.nodes != 4 || !slices.Equal(got.unknown, []string{"node", "virtualDisks.defaultClass"}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestSettingsThatCannotBeAreNamedAllAtOnce(t *testing.T) {
	for content, words := range map[string][]string{
		"defaultStorageClass: [a]\nnodes: many": {"defaultStorageClass is one value", "nodes "},
		"virtualMachineCIDRs: 10.66.10.0/24":    {"virtualMachineCIDRs is a list"},
		"nodes: [1, 2]":                         {"nodes is one value"},
		"nodes:":                                {"nodes has no value"},
		"nodes: 1\nnodes: 2":                    {"nodes"},
		"just words":                            {"config.yaml"},
	} {
		_, err := apply(t, content)
		if !errors.Is(err, serve.ErrSettings) {
			t.Errorf("%q: %v", content, err)
			continue
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q: %v says nothing of %q", content, err, word)
			}
		}
	}
}
