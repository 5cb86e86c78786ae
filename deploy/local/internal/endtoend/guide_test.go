package endtoend_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// passed over are commands that a test can't follow as they are written, by what
// they have in them, and why.
var passedOver = map[string]string{
	"v console":             "typed by TestQuickStart",
	"v vnc":                 "shows a window",
	"docker ":               "needs a registry of one's own: TestImages has one",
	"cloudimg-amd64.img -o": "the content of that registry's image",
	"docker.io/":            "as above",
	"mkpasswd":              "a tool of another package",
	"sudo apt":              "typed in a guest with another system",
	"sudo yum":              "as above",
	"sudo systemctl":        "as above",
	"ubuntu-iso":            "an image that the guide never makes",
}

// told are what the guide leaves to its reader to put in.
var told = strings.NewReplacer(
	"https://cloud-images.ubuntu.com/minimal/releases/jammy/release/ubuntu-22.04-minimal-cloudimg-amd64.img", guideImage,
	"http://download.cirros-cloud.net/0.5.1/cirros-0.5.1-x86_64-disk.img", guideImage,
	"curl https://virtualization.example.com/upload/g2OuLgRhdAWqlJsCMyNvcdt4o5ERIwmm",
	`curl --cacert $ORLOP_HOME/ca.crt "$(d8 k get vi some-image -o jsonpath={.status.imageUploadURLs.external})"`,
	"i-sds-replicated-thin-r2", "local", "sds-replicated-volume", "local",
	"-n <namespace> <vm-name>", "linux-vm", "<vm-name>", "linux-vm",
	"linux-vm-root-1728027905", "$(d8 k get vdsnapshot -o jsonpath={.items[0].metadata.name})",
	"vmip linux-vm-7prpx", "vmip $(d8 k get vm linux-vm -o jsonpath={.status.virtualMachineIPAddressName})",
	"\nd k get", "\nd8 k get", "\nk get", "\nd8 k get",
	"d8 k edit", "EDITOR=true d8 k edit",
	" -w\n", " # once, not for ever\n",
	// Where it would use a name twice.
	"kind: VirtualDisk\nmetadata:\n  name: linux-vm-root\nspec:\n  persistentVolumeClaim:\n    size: 10Gi\n    # Sub", "kind: VirtualDisk\nmetadata:\n  name: linux-vm-again\nspec:\n  persistentVolumeClaim:\n    size: 10Gi\n    # Sub",
	"to: linux-vm-root-2", "to: linux-vm-root-3",
	// Of which one gets nothing done on emulated processors.
	"coreFraction: 10%", "coreFraction: 100%",
)

const guideImage = "http://" + imageAddress + "/micro.qcow2"

// otherwise are outputs that are meant to differ, by what they have in them.
var otherwise = []string{
	"replicated.csi.storage.deckhouse.io", "nfs.csi.k8s.io", "fedora", "firmware-update", "virtualization.example.com", "login: cloud",
	"SIZE RO TYPE", "patched", "28.2%", "Migrating   ", `"name":"linux-vm-7prpx"`,
}

// guideBlock is a fenced block.
type guideBlock struct {
	line           int
	language, text string
}

// TestGuide follows the user's guide, which the variable ORLOP_GUIDE names: each
// command as it is written, in its order, until it shows what the guide shows.
func TestGuide(t *testing.T) {
	file := os.Getenv("ORLOP_GUIDE")
	if file == "" {
		t.Skip("ORLOP_GUIDE names no guide")
	}
	text, err := os.ReadFile(file)
	check(t, err)
	u := newUser(t)
	u.serveImage()
	u.up()
	reader := &guideReader{user: u, folder: t.TempDir()}
	askpass := "#!/bin/sh\necho cloud\n"
	check(t, os.WriteFile(filepath.Join(reader.folder, "askpass"), []byte(askpass), 0o700))
	blocks := blocksOf(string(text))
	for i, block := range blocks {
		if !block.isCommand() {
			continue
		}
		var shown guideBlock
		if i+1 < len(blocks) && (blocks[i+1].language == "txt" || blocks[i+1].language == "console") {
			shown = blocks[i+1]
		}
		t.Run(fmt.Sprintf("line %d", block.line), func(t *testing.T) { reader.follow(t, block, shown) })
	}
	// What it ends with, and does not show.
	u.waitFor("vmrestore/linux-vm-restore", "{.status.phase}", "Ready")
	u.waitFor("vm/linux-vm-2", "{.status.phase}", "Running")
}

func blocksOf(text string) []guideBlock {
	var blocks []guideBlock
	var open *guideBlock
	indent := ""
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		fence, isFence := strings.CutPrefix(trimmed, "```")
		switch {
		case isFence && open == nil:
			open = &guideBlock{line: i + 1, language: fence}
			indent, _, _ = strings.Cut(line, "`")
		case isFence:
			blocks, open = append(blocks, *open), nil
		case open != nil:
			open.text += strings.TrimPrefix(line, indent) + "\n"
		}
	}
	return blocks
}

var commandLine = regexp.MustCompile(`^(d8|d|k|curl|docker|mkpasswd|sudo) `)

func (b guideBlock) isCommand() bool {
	return (b.language == "bash" || b.language == "yaml" || b.language == "") && commandLine.MatchString(b.text)
}

type guideReader struct {
	*user
	folder string
}

func (r *guideReader) follow(t *testing.T, block, shown guideBlock) {
	for word, why := range passedOver {
		if strings.Contains(block.text, word) {
			t.Skip(why)
		}
	}
	script := told.Replace("\n" + block.text)
	for _, word := range otherwise {
		if strings.Contains(shown.text, word) {
			shown.text = ""
		}
	}
	var said string
	var problem error
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		said, problem = r.shell(script)
		if problem == nil && shown.text != "" {
			problem = alike(shown.text, said)
		}
		if problem == nil {
			t.Logf("%s\n%s", script, said)
			return
		}
		if shown.text == "" && !strings.Contains(script, "d8 v ") { // which wait for a guest
			break
		}
		<-tick.C
	}
	t.Errorf("%s\nsays:\n%s\nthe guide:\n%s\n%v", script, said, shown.text, problem)
}

func (r *guideReader) shell(script string) (string, error) {
	command := exec.Command("bash", "-eo", "pipefail", "-c", script)
	command.Dir = r.folder
	command.Env = append(os.Environ(), "PATH="+filepath.Join(r.root, "bin")+":"+os.Getenv("PATH"), "ORLOP_HOME="+r.home,
		"KUBECONFIG="+filepath.Join(r.home, "kubeconfig"), "SSH_ASKPASS="+filepath.Join(r.folder, "askpass"), "SSH_ASKPASS_REQUIRE=force")
	output, err := command.Output()
	if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Output wraps nothing.
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return string(output), err
}

// alike compares what was said with what the guide shows: tables by their columns,
// and each row by its name and phase, JSON by its values, all else by its lines.
func alike(shown, said string) error {
	var lines []string
	for line := range strings.Lines(shown) {
		lines = append(lines, strings.TrimRight(strings.TrimPrefix(strings.TrimPrefix(line, "#"), " "), " \n"))
	}
	text := strings.TrimSpace(strings.Join(lines, "\n"))
	switch {
	case strings.HasPrefix(text, "NAME"):
		return alikeTables(tablesOf(text), tablesOf(said))
	case strings.HasPrefix(text, "["):
		var a, b any
		if json.Unmarshal([]byte(text), &a) != nil || json.Unmarshal([]byte(said), &b) != nil || !reflect.DeepEqual(a, b) {
			return fmt.Errorf("another JSON")
		}
		return nil
	}
	if !strings.Contains(said, text) {
		return fmt.Errorf("another text")
	}
	return nil
}

// table has its rows by their names, and the values of those by the columns'.
type table struct {
	columns []string
	rows    map[string]map[string]string
}

var gap = regexp.MustCompile(`\s{2,}`)

func tablesOf(text string) []table {
	var tables []table
	for _, part := range strings.Split(strings.TrimSpace(text), "\n\n") {
		one := table{rows: map[string]map[string]string{}}
		for i, line := range strings.Split(part, "\n") {
			values := gap.Split(strings.TrimSpace(line), -1)
			if i == 0 {
				one.columns = values
				continue
			}
			row := map[string]string{}
			for j, value := range values {
				row[one.columns[min(j, len(one.columns)-1)]] = value
			}
			one.rows[values[0]] = row
		}
		tables = append(tables, one)
	}
	return tables
}

// made is the part of a name that is made up.
var made = regexp.MustCompile(`-([0-9]{10}|[a-z0-9]{5})$`)

func alikeTables(shown, said []table) error {
	if len(shown) != len(said) {
		return fmt.Errorf("%d tables, want %d", len(said), len(shown))
	}
	for i, want := range shown {
		for _, column := range want.columns {
			if !slices.Contains(said[i].columns, column) {
				return fmt.Errorf("columns are %q, want %q", said[i].columns, want.columns)
			}
		}
		rows := map[string]map[string]string{}
		for name, row := range said[i].rows {
			rows[made.ReplaceAllString(name, "")] = row
		}
		for name, row := range want.rows {
			got := rows[made.ReplaceAllString(name, "")]
			if got == nil || got["PHASE"] != row["PHASE"] || got["STATUS"] != row["STATUS"] {
				return fmt.Errorf("no row %s in phase %s%s among %v", name, row["PHASE"], row["STATUS"], maps.Collect(maps.All(said[i].rows)))
			}
		}
	}
	return nil
}
