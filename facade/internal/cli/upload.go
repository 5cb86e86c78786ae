package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	imagev1 "orlop.dev/gen/orlop/image/v1"
)

const (
	uploadTimeout = 5 * time.Minute
	uploadPoll    = 300 * time.Millisecond
)

var errNotAFile = errors.New("only a regular file can be uploaded: an upload that breaks is gone on with in its middle")

func newUpload(c *client) *cobra.Command {
	var u uploading
	command := &cobra.Command{
		Use:   "upload FILE KIND/NAME[.NAMESPACE]",
		Short: "Send a file as an image or a disk, and go on where it broke off",
		Long: `Sends a file to an object whose source is of type Upload, shows how far it is, and
waits until the object is Ready. The kinds are those of kubectl: vi, cvi, vd.

A connection that breaks, or a service that restarts, is waited for, and the
upload goes on where it was. Ctrl+C stops it; the same command goes on later.
What nobody goes on with is given up after a while (15 minutes by default).`,
		Example: `  orlop upload disk.qcow2 vi/some-image --create
  orlop upload setup.iso cvi/setup
  orlop upload disk.img vi/some-image -n project --no-wait`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: c.completeUpload,
	}
	command.Flags().StringVarP(&c.namespace, "namespace", "n", defaultNamespace, "namespace of the object")
	command.Flags().BoolVar(&u.create, "create", false, "create the object if it is missing")
	command.Flags().BoolVar(&u.restart, "restart", false, "send the file from its start, whatever has arrived before")
	command.Flags().BoolVar(&u.noWait, "no-wait", false, "return when the file has arrived")
	command.Flags().DurationVar(&u.timeout, "timeout", uploadTimeout, "how long to wait without progress")
	command.RunE = func(command *cobra.Command, args []string) error {
		file, err := openUpload(args[0])
		if err != nil {
			return err
		}
		defer file.Close()
		conn, err := c.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		if u.target, err = newUploadTarget(conn, args[1], c.namespace); err != nil {
			return err
		}
		u.service, u.file = imagev1.NewUploadServiceClient(conn), file
		u.out, u.note = command.OutOrStdout(), command.ErrOrStderr()
		return u.run(command.Context())
	}
	return command
}

// uploadFile is the file as it is at the start.
type uploadFile struct {
	*os.File
	bytes int64
}

func openUpload(path string) (uploadFile, error) {
	file, err := os.Open(path)
	if err != nil {
		return uploadFile{}, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, errNotAFile)
	}
	if err != nil {
		return uploadFile{}, errors.Join(err, file.Close())
	}
	return uploadFile{file, info.Size()}, nil
}

// uploading is one use of the command.
type uploading struct {
	create, restart, noWait bool
	timeout                 time.Duration

	service imagev1.UploadServiceClient
	target  *uploadTarget
	file    uploadFile
	out     io.Writer // the result
	note    io.Writer // how far it is
}

func (u *uploading) run(ctx context.Context) error {
	if u.create {
		if err := u.target.create(ctx); err != nil {
			return err
		}
	}
	status, err := u.await(ctx, newBar(u.note, u.target.String()), (*uploadStatus).takesFile)
	if err != nil {
		return err
	}
	if token := status.token(); token != "" {
		s := sending{uploading: u, token: token, bar: newBar(u.note, u.target.String())}
		if err := s.run(ctx); err != nil {
			return s.explain(ctx, err)
		}
	}
	if u.noWait {
		fmt.Fprintf(u.out, "%s: the file has arrived\n", u.target)
		return nil
	}
	if status, err = u.await(ctx, newBar(u.note, u.target.String()), (*uploadStatus).ready); err != nil {
		return err
	}
	fmt.Fprintf(u.out, "%s: %s\n", u.target, status.Phase)
	return nil
}

// await looks at the object until it is as wanted. It fails with the object, or
// when nothing has changed for long.
func (u *uploading) await(ctx context.Context, bar *bar, wanted func(*uploadStatus) (bool, error)) (*uploadStatus, error) {
	tick := time.NewTicker(uploadPoll)
	defer tick.Stop()
	defer bar.end()
	var last string
	changed := time.Now()
	for {
		status, err := u.target.look(ctx)
		if err != nil && !passes(err) {
			return nil, err
		}
		if err == nil {
			if done, err := wanted(status); done || err != nil {
				return status, err
			}
			if now := status.Phase + " " + status.Progress; now != last {
				last, changed = now, time.Now()
			}
			bar.phase(last)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		if time.Since(changed) > u.timeout {
			return nil, &waitError{target: u.target.String(), phase: last, waited: u.timeout}
		}
	}
}

// waitError is an object that doesn't get on.
type waitError struct {
	target, phase string
	waited        time.Duration
}

func (e *waitError) Error() string {
	return fmt.Sprintf("%s has been %s for %s: kubectl describe tells more", e.target, e.phase, e.waited)
}
