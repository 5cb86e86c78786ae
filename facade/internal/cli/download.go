package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
)

const downloadTimeout = 5 * time.Minute

func newDownload(c *client) *cobra.Command {
	var d downloading
	command := &cobra.Command{
		Use:   "download (vd|vdsnapshot)/NAME[.NAMESPACE]",
		Short: "Fetch a disk or a snapshot as a file, and go on where it broke off",
		Long: `Fetches the content of a disk that no running VM uses, or of a snapshot, shows
how far it is, and verifies the SHA-256. No VM can start with the disk until it is
done; a snapshot can be fetched whatever its disk does.

A connection that breaks, or a service that restarts, is waited for, and the
download goes on where it was. Ctrl+C stops it; the same command goes on later,
unless the disk was written to meanwhile. The file has its name once it is whole.`,
		Example: `  orlop download vd/data
  orlop download vd/data -o data.img --format raw -n project
  orlop download vdsnapshot/before-upgrade`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeExport,
	}
	command.Flags().StringVarP(&c.namespace, "namespace", "n", defaultNamespace, "namespace of the disk or the snapshot")
	command.Flags().StringVarP(&d.path, "output", "o", "", "file to write (default NAME.FORMAT)")
	command.Flags().StringVar(&d.format, "format", "qcow2", "qcow2, which leaves out what is empty, or raw")
	command.Flags().BoolVarP(&d.force, "force", "f", false, "replace a file that is there")
	command.Flags().DurationVar(&d.timeout, "timeout", downloadTimeout, "how long to wait without progress")
	command.RunE = func(command *cobra.Command, args []string) error {
		from, err := c.parseExport(args[0])
		if err != nil {
			return err
		}
		if d.path == "" {
			d.path = from.name + "." + d.format
		}
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		d.service, d.disk = from.service(conn), from.objectName
		d.bar = newBar(command.ErrOrStderr(), args[0])
		sum, err := d.run(command.Context())
		if err != nil {
			return err
		}
		fmt.Fprintf(command.OutOrStdout(), "%s: sha256 %s\n", d.path, sum)
		return nil
	}
	return command
}

// exportError is an argument that names nothing that can be downloaded.
type exportError struct{ argument string }

func (e *exportError) Error() string {
	return fmt.Sprintf("%q is nothing to download: give vd/NAME (VirtualDisk) or vdsnapshot/NAME (VirtualDiskSnapshot)", e.argument)
}

// export is an object that can be downloaded, and the service that has it.
type export struct {
	objectName
	service func(grpc.ClientConnInterface) diskv1.DiskExportServiceClient
}

// exportOf finds the service by a kind's name.
func exportOf(word string) func(grpc.ClientConnInterface) diskv1.DiskExportServiceClient {
	switch strings.ToLower(word) {
	case "vd", "vds", "virtualdisk", "virtualdisks":
		return diskv1.NewDiskExportServiceClient
	case "vdsnapshot", "vdsnapshots", "virtualdisksnapshot", "virtualdisksnapshots":
		return func(conn grpc.ClientConnInterface) diskv1.DiskExportServiceClient {
			return diskv1.NewSnapshotExportServiceClient(conn) // its methods are the same
		}
	}
	return nil
}

// parseExport reads KIND/NAME or KIND/NAME.NAMESPACE.
func (c *client) parseExport(argument string) (export, error) {
	word, name, _ := strings.Cut(argument, "/")
	service := exportOf(word)
	if service == nil || name == "" {
		return export{}, &exportError{argument}
	}
	return export{c.parse(name), service}, nil
}

// downloading is one use of the command.
type downloading struct {
	path, format string
	force        bool
	timeout      time.Duration

	service diskv1.DiskExportServiceClient
	disk    objectName
	bar     *bar
}

// errFileExists says that the file would be overwritten.
var errFileExists = errors.New("is there already: --force replaces it")

// errWrongDigest says that what came is not what was sent.
var errWrongDigest = errors.New("the content differs from the disk's: download it anew")

// run downloads the file, and returns its SHA-256.
func (d *downloading) run(ctx context.Context) (string, error) {
	if _, err := os.Lstat(d.path); err == nil && !d.force {
		return "", fmt.Errorf("%s %w", d.path, errFileExists)
	}
	request := &diskv1.DescribeDiskExportRequest{Namespace: d.disk.namespace, Name: d.disk.name, Format: d.format}
	told, err := d.service.DescribeDiskExport(ctx, request)
	if err != nil {
		return "", err
	}
	f, err := openDownload(d.path, told)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := (&fetching{downloading: d, file: f}).run(ctx); err != nil {
		return "", d.explain(ctx, err)
	}
	if f.sha256 == "" {
		// A part of it came earlier: only the whole has a digest.
		d.bar.phase("verifies")
		told, err := d.service.DigestDiskExport(ctx, request)
		d.bar.end()
		if err != nil {
			return "", d.explain(ctx, err)
		}
		f.sha256 = told.GetSha256()
	}
	return f.sha256, f.finish(d.path)
}

// explain says how to go on after an interruption.
func (d *downloading) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted: the same command goes on where it stopped")
	}
	return err
}

// zeroCopy writes zeros to a hash.
func zeroCopy(w io.Writer, count int64) error {
	nothing := make([]byte, min(count, 1<<20))
	for ; count > 0; count -= int64(len(nothing)) {
		nothing = nothing[:min(count, int64(len(nothing)))]
		if _, err := w.Write(nothing); err != nil {
			return err
		}
	}
	return nil
}
