package virtualdisk

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	diskv1 "orlop.dev/gen/orlop/disk/v1"
	imagev1 "orlop.dev/gen/orlop/image/v1"
	metav1 "orlop.dev/gen/orlop/meta/v1"
	"orlop.dev/kit/fault"
)

const (
	// watchPause keeps a watch that fails at once from turning hot.
	watchPause = 500 * time.Millisecond
	ownerKind  = "VirtualDisk"
)

// fetch brings the file of a source into DVCR, and reports whether it is there.
func (r *Reconciler) fetch(ctx context.Context, disk *diskv1.VirtualDisk, o *observation) (bool, error) {
	if o.record.Source == nil {
		stamp(r.Now(), &o.record.Importing)
	}
	if err := r.take(ctx, disk, o); err != nil {
		return false, err
	}
	source := disk.GetSpec().GetDataSource()
	file, err := r.Imports.Ensure(ctx, holderOf(disk), disk.GetMetadata().GetGeneration(), &imagev1.DataSource{
		Type: source.GetType(), Http: source.GetHttp(), ContainerImage: source.GetContainerImage(), Upload: source.GetUpload(),
	})
	if err != nil {
		o.sourceFault = fault.From(err)
		return false, err
	}
	o.file = file
	switch file.GetStage() {
	case imagev1.ImportStage_Done:
		if err := r.note(ctx, disk, o, stamp(r.Now(), &o.record.Imported)); err != nil {
			return false, err
		}
		return true, fit(content{"the imported file", file.GetBlob().GetCdrom(), file.GetBlob().GetVirtualBytes()}, o)
	case imagev1.ImportStage_Failed:
		return false, fault.New(fault.Invalid, reasonOf(file), "%s", file.GetMessage())
	}
	if file.GetReason() == reasonSecretNotFound {
		o.sourceFault = fault.New(fault.NotReady, reasonSecretNotFound, "%s", file.GetMessage())
	}
	o.again = lookAgain // the watch tells of each change; this is for when it breaks
	return false, nil
}

func reasonOf(file *imagev1.Import) string {
	if file.GetReason() == "" {
		return reasonProvisioningFailed
	}
	return file.GetReason()
}

// ImportClient implements Imports on a connection to the image service.
type ImportClient struct {
	client  imagev1.ImportServiceClient
	changed func(owner *metav1.Holder)
}

// NewImportClient returns a client. changed is told whose import got further,
// and of nil when any might have: the watch began anew, perhaps with a service
// that knows of none.
func NewImportClient(conn grpc.ClientConnInterface, changed func(owner *metav1.Holder)) *ImportClient {
	return &ImportClient{client: imagev1.NewImportServiceClient(conn), changed: changed}
}

// Ensure implements Imports.
func (c *ImportClient) Ensure(ctx context.Context, owner *metav1.Holder, generation int32, source *imagev1.DataSource) (*imagev1.Import, error) {
	file, err := c.client.EnsureImport(ctx, &imagev1.EnsureImportRequest{Owner: owner, Generation: generation, DataSource: source})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return file, nil
}

// Drop implements Imports.
func (c *ImportClient) Drop(ctx context.Context, owner *metav1.Holder) error {
	if _, err := c.client.DeleteImport(ctx, &imagev1.DeleteImportRequest{Owner: owner}); err != nil {
		return fault.FromStatus(err)
	}
	return nil
}

// Run watches imports until ctx ends.
func (c *ImportClient) Run(ctx context.Context) error {
	for {
		// Why a watch broke does not matter: the next one begins with what runs.
		_ = c.watch(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchPause):
		}
	}
}

func (c *ImportClient) watch(ctx context.Context) error {
	stream, err := c.client.WatchImports(ctx, &imagev1.WatchImportsRequest{OwnerKind: ownerKind})
	if err != nil {
		return err
	}
	if _, err := stream.Header(); err != nil { // the watch stands
		return err
	}
	c.changed(nil)
	for {
		file, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		c.changed(file.GetOwner())
	}
}
