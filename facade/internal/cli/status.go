package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"orlop.dev/facade/home"
	"orlop.dev/facade/internal/cli/guest"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

const statusTimeout = 5 * time.Second

// overview is what `orlop status -o json` prints.
type overview struct {
	Running   bool           `json:"running"`
	Home      string         `json:"home"`
	Daemon    *home.Status   `json:"daemon,omitempty"`
	Endpoints home.Endpoints `json:"endpoints,omitempty"`
	Nodes     []nodeView     `json:"nodes,omitempty"`
	// NodesError is why the nodes are not known.
	NodesError string `json:"nodesError,omitempty"`
	Guests     int    `json:"guests"`
	// DiskBytes are the bytes on disk by what they are for.
	DiskBytes map[string]int64 `json:"diskBytes"`
	DVCR      dvcrView         `json:"dvcr"`
}

type nodeView struct {
	Name        string `json:"name"`
	CPU         string `json:"cpu"`
	Memory      string `json:"memory"`
	Accelerator string `json:"accelerator"`
	QEMU        string `json:"qemu"`
}

// errFormat says that -o has a word that it doesn't know.
var errFormat = errors.New("-o must be json, or left out")

func newStatus(c *client) *cobra.Command {
	var format string
	command := &cobra.Command{
		Use:   "status",
		Short: "Show parts, versions, accelerator, network, ports and disk use",
		Long:  "Shows what runs here. The exit code is 3 where nothing does.",
		Args:  cobra.NoArgs,
	}
	command.Flags().StringVarP(&format, "output", "o", "", "json, or nothing for people")
	command.RunE = func(command *cobra.Command, _ []string) error {
		if format != "" && format != "json" {
			return errFormat
		}
		o, err := c.look(command.Context())
		if err != nil {
			return err
		}
		if format == "json" {
			encoder := json.NewEncoder(command.OutOrStdout())
			encoder.SetIndent("", "  ")
			err = encoder.Encode(o)
		} else {
			err = o.print(command.OutOrStdout())
		}
		if err == nil && !o.Running {
			return ErrNotRunning
		}
		return err
	}
	return command
}

// look gathers what there is to know, with or without a daemon.
func (c *client) look(ctx context.Context) (overview, error) {
	h, err := c.home()
	if err != nil {
		return overview{}, err
	}
	o := overview{Home: string(h), DiskBytes: map[string]int64{}}
	pid, err := h.Owner()
	if err != nil {
		return o, err
	}
	o.Running = pid != 0
	if status, err := h.ReadStatus(); err == nil {
		o.Daemon = &status
	} else if !errors.Is(err, fs.ErrNotExist) {
		return o, err
	}
	if o.Guests, err = guests(h); err != nil {
		return o, err
	}
	if err := o.measure(h); err != nil {
		return o, err
	}
	if !o.Running {
		return o, nil
	}
	if o.Endpoints, err = h.ReadEndpoints(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return o, err
	}
	if o.Nodes, err = c.nodes(ctx); err != nil {
		o.NodesError = err.Error()
	}
	return o, nil
}

// measure finds what is on disk.
func (o *overview) measure(h home.Home) (err error) {
	for name, dir := range map[string]string{"etcd": h.Etcd(), "disks": h.Disks(), "logs": h.Logs()} {
		if o.DiskBytes[name], err = usage(dir); err != nil {
			return err
		}
	}
	o.DVCR, err = lookAtDVCR(h.Registry())
	o.DiskBytes["images"] = o.DVCR.UsedBytes
	return err
}

func guests(h home.Home) (int, error) {
	found, err := guest.Find(h.Machines())
	for _, g := range found {
		err = errors.Join(err, g.Close())
	}
	return len(found), err
}

func (c *client) nodes(ctx context.Context) ([]nodeView, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	list, err := vmv1.NewNodeServiceClient(conn).ListNodes(ctx, &vmv1.ListNodesRequest{})
	if err != nil {
		return nil, err
	}
	views := make([]nodeView, 0, len(list.GetItems()))
	for _, n := range list.GetItems() {
		views = append(views, nodeView{
			Name: n.GetName(), CPU: n.GetAllocatable()["cpu"], Memory: n.GetAllocatable()["memory"],
			Accelerator: n.GetAccelerator(), QEMU: n.GetQemuVersion(),
		})
	}
	return views, nil
}

// print is for people.
func (o overview) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("home", "%s", o.Home)
	switch {
	case o.Running && o.Daemon != nil:
		row("orlopd", "%s, version %s, process %d, since %s", o.Daemon.Phase, o.Daemon.Version, o.Daemon.PID, o.Daemon.Began.Format(time.DateTime))
	case o.Daemon != nil && o.Daemon.Error != "":
		row("orlopd", "not running; the last one failed: %s", o.Daemon.Error)
	default:
		row("orlopd", "not running")
	}
	if o.Running {
		o.printRunning(row)
	}
	row("guests", "%d", o.Guests)
	row("DVCR", "%d images, %.1f MiB used, %.1f GiB free", o.DVCR.Images, float64(o.DVCR.UsedBytes)/(1<<20), float64(o.DVCR.FreeBytes)/(1<<30))
	for _, name := range slices.Sorted(maps.Keys(o.DiskBytes)) {
		row("disk: "+name, "%.1f MiB", float64(o.DiskBytes[name])/(1<<20))
	}
	return w.Flush()
}

func (o overview) printRunning(row func(name, format string, args ...any)) {
	if o.Daemon != nil {
		for _, step := range o.Daemon.Steps {
			if step.Detail != "" {
				row("part", "%s: %s", step.Name, step.Detail)
			}
		}
		for _, fact := range o.Daemon.Facts {
			row(fact.Name, "%s. %s", fact.Value, fact.Reason)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Endpoints)) {
		row("door", "%-10s %s", name, o.Endpoints[name])
	}
	for _, n := range o.Nodes {
		row("node", "%s: %s CPUs, %s memory, QEMU %s, %s", n.Name, n.CPU, n.Memory, n.QEMU, n.Accelerator)
	}
	if o.NodesError != "" {
		row("nodes", "unknown: %s", o.NodesError)
	}
}
