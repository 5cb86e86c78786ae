package intake

import (
	"errors"
	"strconv"
	"time"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/services/image/internal/containerimage"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/job"
)

// Size is the size of a published file for people and programs.
func (p *Published) Size() *imagev1.ImageSize {
	return &imagev1.ImageSize{
		Stored: human(p.Disk.Size), StoredBytes: strconv.FormatInt(p.Disk.Size, 10),
		Unpacked: human(p.VirtualBytes), UnpackedBytes: strconv.FormatInt(p.VirtualBytes, 10),
	}
}

// Progress is a percentage, empty until the import runs.
func (o *Observation) Progress() string {
	switch {
	case o.Published != nil:
		return "100%"
	case o.Upload != nil:
		return o.Upload.progress(o.Job)
	case o.Job == nil:
		return ""
	}
	read := o.Job.Progress.ReadBytes
	if o.Job.Stage == job.Stopping || read == 0 && o.Job.Stage != job.Running {
		return ""
	}
	return percent(read, o.Job.Progress.TotalBytes)
}

// DownloadSpeed keeps the mean of an import that is over, which old has.
func (o *Observation) DownloadSpeed(old *imagev1.DownloadSpeed) *imagev1.DownloadSpeed {
	switch {
	case o.Published != nil && old != nil:
		return &imagev1.DownloadSpeed{Avg: old.GetAvg(), AvgBytes: old.GetAvgBytes()}
	case o.Upload != nil:
		return o.Upload.speed()
	case o.Job == nil || o.Job.Progress == importer.Progress{}:
		return nil
	}
	p := o.Job.Progress
	speed := &imagev1.DownloadSpeed{
		Avg: human(p.AverageBytesPerSecond) + "/s", AvgBytes: strconv.FormatInt(p.AverageBytesPerSecond, 10),
	}
	if o.Job.Stage == job.Running {
		speed.Current = human(p.BytesPerSecond) + "/s"
		speed.CurrentBytes = strconv.FormatInt(p.BytesPerSecond, 10)
	}
	return speed
}

// Failure says why an import failed, in words for people, and when it is tried
// again if it is; empty where nothing failed.
func Failure(state *job.State) string {
	switch state.Stage {
	case job.Failed:
		return job.Explain(state.Err)
	case job.Retrying:
		return job.Explain(state.Err) + "; tried again at " + state.Next.UTC().Format(time.TimeOnly) + " UTC"
	}
	return ""
}

// FailedToPull reports an import that failed at a registry or an image in it, not
// at the disk that it gave.
func FailedToPull(state *job.State) bool {
	_, pulled := errors.AsType[*containerimage.PullError](state.Err)
	return pulled
}
