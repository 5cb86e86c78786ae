package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"k8s.io/apimachinery/pkg/api/resource"

	metav1 "orlop.dev/gen/orlop/meta/v1"
	vmv1 "orlop.dev/gen/orlop/vm/v1"
)

func newGuest(c *client) *cobra.Command {
	var format string
	command := &cobra.Command{
		Use:   "guest VM",
		Short: "Show who is logged in to a VM, and its file systems and interfaces",
		Long: `Asks the guest agent of a VM that runs who is logged in, which file systems are
mounted and how full they are, and which network interfaces there are. It is the
guest's own word.`,
		Example:           "  orlop guest linux-vm",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeVM(),
	}
	command.Flags().StringVarP(&format, "output", "o", "", "json, or nothing for people")
	c.bindNamespace(command)
	command.RunE = func(command *cobra.Command, args []string) error {
		if format != "" && format != "json" {
			return errFormat
		}
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		info, err := vmv1.NewVirtualMachineServiceClient(conn).GetGuestInfo(command.Context(),
			&metav1.GetRequest{Namespace: c.namespace, Name: args[0]})
		if err != nil {
			return err
		}
		if format == "json" {
			text, err := protojson.MarshalOptions{Multiline: true}.Marshal(info)
			if err == nil {
				_, err = fmt.Fprintln(command.OutOrStdout(), string(text))
			}
			return err
		}
		return printGuest(command.OutOrStdout(), info)
	}
	return command
}

func printGuest(out io.Writer, info *vmv1.GuestInfo) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "System:\t%s\nAgent:\t%s\n", info.GetSystem(), info.GetAgentVersion())
	fmt.Fprintln(w, "\nUSER\tSINCE\t")
	for _, user := range info.GetUsers() {
		fmt.Fprintf(w, "%s\t%s\t\n", strings.TrimPrefix(user.GetDomain()+`\`+user.GetName(), `\`), user.GetSince().AsTime().Format(time.RFC3339))
	}
	fmt.Fprintln(w, "\nFILE SYSTEM\tTYPE\tUSED\tSIZE\tMOUNTED ON\t")
	for _, one := range info.GetFilesystems() {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", one.GetDevice(), one.GetType(), size(one.GetUsedBytes()), size(one.GetTotalBytes()), one.GetMountpoint())
	}
	fmt.Fprintln(w, "\nINTERFACE\tMAC\tADDRESSES\t")
	for _, one := range info.GetInterfaces() {
		fmt.Fprintf(w, "%s\t%s\t%s\t\n", one.GetName(), one.GetMacAddress(), strings.Join(one.GetAddresses(), ", "))
	}
	return w.Flush()
}

// size is a number of bytes for people; unknown is "-".
func size(bytes int64) string {
	const mebibyte = 1 << 20
	switch {
	case bytes == 0:
		return "-"
	case bytes < mebibyte:
		return resource.NewQuantity(bytes, resource.BinarySI).String()
	}
	return fmt.Sprintf("%dMi", bytes/mebibyte)
}
