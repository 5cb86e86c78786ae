package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
)

func newDisk(c *client) *cobra.Command {
	command := &cobra.Command{
		Use:   "disk",
		Short: "Look into disks",
	}
	command.AddCommand(newDiskTree(c))
	return command
}

func newDiskTree(c *client) *cobra.Command {
	var format string
	command := &cobra.Command{
		Use:   "tree [NAME[.NAMESPACE]]",
		Short: "Show what disks stand on, and what each part takes on this machine",
		Long: `Shows what a disk is made of, or each disk of the namespace: its own file, the
frozen layers below, the image at the bottom. Each part is stored once, however
many disks stand on it; OWN is what it takes by itself, SIZE how large a disk it
shows.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeDisk(""),
	}
	command.Flags().StringVarP(&c.namespace, "namespace", "n", defaultNamespace, "namespace of the disk")
	command.Flags().StringVarP(&format, "output", "o", "", "json, or nothing for people")
	command.RunE = func(command *cobra.Command, args []string) error {
		if format != "" && format != "json" {
			return errFormat
		}
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		trees, err := c.trees(command.Context(), conn, args)
		if err != nil {
			return err
		}
		if format == "json" {
			return printTreesJSON(command.OutOrStdout(), trees)
		}
		return printTrees(command.OutOrStdout(), trees)
	}
	return command
}

// trees asks for one disk, or for all of the namespace.
func (c *client) trees(ctx context.Context, conn grpc.ClientConnInterface, args []string) ([]*diskv1.DiskTree, error) {
	layers := diskv1.NewDiskLayerServiceClient(conn)
	if len(args) == 1 {
		disk := c.parse(args[0])
		tree, err := layers.GetDiskTree(ctx, &diskv1.GetDiskTreeRequest{Namespace: disk.namespace, Name: disk.name})
		return []*diskv1.DiskTree{tree}, err
	}
	var trees []*diskv1.DiskTree
	request := &metav1.ListRequest{Namespace: c.namespace}
	for {
		page, err := diskv1.NewVirtualDiskServiceClient(conn).ListVirtualDisks(ctx, request)
		if err != nil {
			return nil, err
		}
		for _, disk := range page.GetItems() {
			name := disk.GetMetadata().GetName()
			tree, err := layers.GetDiskTree(ctx, &diskv1.GetDiskTreeRequest{Namespace: c.namespace, Name: name})
			if fault.Is(err, fault.NotFound) {
				continue // it went while we looked
			}
			if err != nil {
				return nil, err
			}
			trees = append(trees, tree)
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return trees, nil
		}
	}
}

func printTreesJSON(out io.Writer, trees []*diskv1.DiskTree) error {
	items := make([]json.RawMessage, 0, len(trees))
	for _, tree := range trees {
		text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(tree)
		if err != nil {
			return err
		}
		items = append(items, text)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(map[string]any{"items": items})
}

func printTrees(out io.Writer, trees []*diskv1.DiskTree) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DISK\tFORMAT\tSIZE\tOWN\tSHARED WITH")
	for _, tree := range trees {
		if len(tree.GetParts()) == 0 {
			fmt.Fprintf(w, "%s\t\t\t\t(not made yet)\n", tree.GetName())
		}
		for i, part := range tree.GetParts() {
			size := ""
			if part.GetVirtualBytes() > 0 {
				size = binary(part.GetVirtualBytes())
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", branch(tree, i), part.GetFormat(), size, binary(part.GetOwnBytes()), sharers(part))
		}
	}
	return w.Flush()
}

// branch is a part's place in its tree.
func branch(tree *diskv1.DiskTree, depth int) string {
	part := tree.GetParts()[depth]
	if depth == 0 {
		return tree.GetName()
	}
	text := strings.Repeat("   ", depth-1) + "└─ "
	switch part.GetKind() {
	case diskv1.DiskPartKind_Image:
		return text + "image " + shortDigest(part.GetId())
	case diskv1.DiskPartKind_Layer:
		return text + "layer " + part.GetId()
	}
	return text + part.GetId()
}

// digestDigits are enough to tell images apart.
const digestDigits = 12

func shortDigest(digest string) string {
	_, digits, _ := strings.Cut(digest, ":")
	return digits[:min(len(digits), digestDigits)]
}

func sharers(part *diskv1.DiskPart) string {
	words := part.GetSharedWith()
	if n := part.GetSharedElsewhere(); n > 0 {
		words = append(words, fmt.Sprintf("%d elsewhere", n))
	}
	text := strings.Join(words, ", ")
	if part.GetKept() {
		text = strings.TrimPrefix(text+"; kept", "; ")
	}
	return text
}
