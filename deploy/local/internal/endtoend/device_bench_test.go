package endtoend_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// deviceRounds is how often each side does it.
const deviceRounds = 7

// BenchmarkSnapshot is the time from a POST of a snapshot of a running VM's disk
// to the watch that says Ready, beside what QEMU and its guest's agent need for the
// same by hand: freeze, a new file, a transaction, thaw.
func BenchmarkSnapshot(b *testing.B) {
	u, hand := runningTwice(b)
	door := u.door()
	beside(b, func(i int) {
		door.make(b, "virtualdisksnapshots", fmt.Sprintf("s-%d", i), `{"virtualDiskName": "linux-disk"}`, "Ready")
	}, func(i int) {
		file := fmt.Sprintf("snapshot-%d.qcow2", i)
		hand.agent.do(b, "guest-fsfreeze-freeze", nil)
		hand.monitor.do(b, "blockdev-snapshot-sync", map[string]any{
			"node-name": hand.top, "snapshot-file": filepath.Join(hand.dir, file), "snapshot-node-name": file,
		})
		hand.agent.do(b, "guest-fsfreeze-thaw", nil)
		hand.top = file
	})
}

// BenchmarkHotPlug is the time from a POST of an attachment to the watch that says
// Attached, beside the two commands of QEMU's that it takes.
func BenchmarkHotPlug(b *testing.B) {
	u, hand := runningTwice(b)
	door := u.door()
	for i := range deviceRounds {
		name := fmt.Sprintf("d-%d", i)
		door.make(b, "virtualdisks", name, `{"persistentVolumeClaim": {"size": "64Mi"}}`, "Ready")
		u.mustRun(exec.Command("qemu-img", "create", "-q", "-f", "qcow2", filepath.Join(hand.dir, name), "64M"))
	}
	beside(b, func(i int) {
		door.make(b, "virtualmachineblockdeviceattachments", fmt.Sprintf("a-%d", i), fmt.Sprintf(
			`{"virtualMachineName": "linux-vm", "blockDeviceRef": {"kind": "VirtualDisk", "name": "d-%d"}}`, i), "Attached")
	}, func(i int) {
		name := fmt.Sprintf("d-%d", i)
		hand.monitor.do(b, "blockdev-add", map[string]any{
			"driver": "qcow2", "node-name": name, "file": map[string]any{"driver": "file", "filename": filepath.Join(hand.dir, name)},
		})
		hand.monitor.do(b, "device_add", map[string]any{"driver": "scsi-hd", "bus": "scsi0.0", "drive": name, "id": "plugged-" + name})
	})
}

// BenchmarkRestore is the time from a POST of a restore in place to the watch that
// says Ready, of a VM with four disks that is off.
func BenchmarkRestore(b *testing.B) {
	u := newUser(b)
	u.up()
	door := u.door()
	var refs []string
	for i := range 4 {
		name := fmt.Sprintf("d-%d", i)
		door.make(b, "virtualdisks", name, `{"persistentVolumeClaim": {"size": "10Gi"}}`, "Ready")
		refs = append(refs, `{"kind": "VirtualDisk", "name": "`+name+`"}`)
	}
	door.make(b, "virtualmachines", "four", `{"runPolicy": "AlwaysOff", "cpu": {"cores": 1}, "memory": {"size": "64Mi"},
		"blockDeviceRefs": [`+strings.Join(refs, ", ")+`]}`, "Stopped")
	u.appears("vm/four")
	u.waitFor("vm/four", `{.status.conditions[?(@.type=="VirtualMachineIPAddressReady")].status}`, "True")
	door.make(b, "virtualmachinesnapshots", "monday", `{"virtualMachineName": "four"}`, "Ready")
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		door.make(b, "virtualmachinerestores", fmt.Sprintf("r-%d", len(took)),
			`{"virtualMachineSnapshotName": "monday", "restoreMode": "Forced"}`, "Ready")
		took = append(took, time.Since(began))
	}
	b.ReportMetric(milliseconds(middle(took)), "ms/restore")
}

// beside times both sides in turn, as often as it takes for a median.
func beside(b *testing.B, ours, byHand func(round int)) {
	b.Helper()
	var a, z []time.Duration
	for range deviceRounds {
		began := time.Now()
		ours(len(a))
		a = append(a, time.Since(began))
		began = time.Now()
		byHand(len(z))
		z = append(z, time.Since(began))
	}
	b.ReportMetric(milliseconds(middle(a)), "ms/ours")
	b.ReportMetric(milliseconds(middle(z)), "ms/by-hand")
	b.ReportMetric(0, "ns/op")
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// runningTwin is a guest that a person runs.
type runningTwin struct {
	dir, top       string
	monitor, agent *talk
}

// runningTwice has the quick start's guest, and a twin of it.
func runningTwice(b *testing.B) (*user, *runningTwin) {
	b.Helper()
	u := newUser(b)
	u.serveImage()
	u.up()
	u.kubectl("apply", "-f", u.example("quickstart.yaml"))
	u.waitFor("vm/linux-vm", `{.status.conditions[?(@.type=="AgentReady")].status}`, "True")
	twin := u.twinOfGuest(b.TempDir())
	b.Cleanup(twin.start(b, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", twin.image))
	hand := &runningTwin{dir: twin.dir, monitor: talkTo(b, filepath.Join(twin.dir, "qmp.sock")), agent: talkTo(b, filepath.Join(twin.dir, "agent.sock"))}
	hand.monitor.hear(b) // its greeting
	hand.monitor.do(b, "qmp_capabilities", nil)
	var blocks []struct {
		NodeName string `json:"node-name"`
		Drv      string
		File     string
	}
	check(b, json.Unmarshal(hand.monitor.do(b, "query-named-block-nodes", nil), &blocks))
	for _, block := range blocks {
		if block.Drv == "qcow2" && strings.HasSuffix(block.File, "disk.qcow2") {
			hand.top = block.NodeName
		}
	}
	return u, hand
}

// talk is a conversation in JSON, a line each.
type talk struct {
	conn    net.Conn
	decoder *json.Decoder
}

func talkTo(b *testing.B, socket string) *talk {
	b.Helper()
	conn, err := net.Dial("unix", socket)
	check(b, err)
	b.Cleanup(func() { _ = conn.Close() })
	check(b, conn.SetDeadline(time.Now().Add(deadline)))
	return &talk{conn: conn, decoder: json.NewDecoder(conn)}
}

// do executes a command and gives its answer; events in between are passed over.
func (t *talk) do(b *testing.B, command string, arguments map[string]any) json.RawMessage {
	b.Helper()
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	check(b, json.NewEncoder(t.conn).Encode(request))
	for {
		answer := t.hear(b)
		if failure := answer["error"]; failure != nil {
			b.Fatalf("%s: %s", command, failure)
		}
		if result, ok := answer["return"]; ok {
			return result
		}
	}
}

func (t *talk) hear(b *testing.B) map[string]json.RawMessage {
	b.Helper()
	var message map[string]json.RawMessage
	check(b, t.decoder.Decode(&message))
	return message
}
