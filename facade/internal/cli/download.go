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

	diskv1 "orlop.dev/gen/orlop/disk/v1"
)

const downloadTimeout = 5 * time.Minute

func newDownload(c *client) *cobra.Command {
	var d downloading
	command := &cobra.Command{
		Use:   "download vd/NAME[.NAMESPACE]",
		Short: "Fetch a disk as a file, and go on where it broke off",
		Long: `Fetches the content of a disk that no running VM uses, shows how far it is, and
verifies the SHA-256. No VM can start with the disk until it is done.

A connection that breaks, or a service that restarts, is waited for, and the
download goes on where it was. Ctrl+C stops it; the same command goes on later,
unless the disk was written to meanwhile. The file has its name once it is whole.`,
		Example: `  orlop download vd/data
  orlop download vd/data -o data.img --format raw -n project`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.completeDisk("vd/"),
	}
	command.Flags().StringVarP(&c.namespace, "namespace", "n", defaultNamespace, "namespace of the disk")
	command.Flags().StringVarP(&d.path, "output", "o", "", "file to write (default NAME.FORMAT)")
	command.Flags().StringVar(&d.format, "format", "qcow2", "qcow2, which leaves out what is empty, or raw")
	command.Flags().BoolVarP(&d.force, "force", "f", false, "replace a file that is there")
	command.Flags().DurationVar(&d.timeout, "timeout", downloadTimeout, "how long to wait without progress")
	command.RunE = func(command *cobra.Command, args []string) error {
		disk, err := c.parseDisk(args[0])
		if err != nil {
			return err
		}
		if d.path == "" {
			d.path = disk.name + "." + d.format
		}
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		d.service, d.disk = diskv1.NewDiskExportServiceClient(conn), disk
		d.bar = newBar(command.ErrOrStderr(), "vd/"+disk.name)
		sum, err := d.run(command.Context())
		if err != nil {
			return err
		}
		fmt.Fprintf(command.OutOrStdout(), "%s: sha256 %s\n", d.path, sum)
		return nil
	}
	return command
}

// diskError is an argument that names no disk.
type diskError struct{ argument string }

func (e *diskError) Error() string {
	return fmt.Sprintf("%q is nothing to download: give vd/NAME (VirtualDisk)", e.argument)
}

// parseDisk reads KIND/NAME or KIND/NAME.NAMESPACE.
func (c *client) parseDisk(argument string) (objectName, error) {
	word, name, _ := strings.Cut(argument, "/")
	switch strings.ToLower(word) {
	case "vd", "vds", "virtualdisk", "virtualdisks":
		if name != "" {
			return c.parse(name), nil
		}
	}
	return objectName{}, &diskError{argument}
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
