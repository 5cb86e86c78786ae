package intake

import (
	"strconv"
	"strings"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/job"
	"orlop.dev/services/image/internal/upload"
)

// Uploads wait for files that users send.
type Uploads interface {
	// Ensure waits for a file, unless it does already.
	Ensure(w upload.Wish) (upload.State, error)
	State(owner string) (upload.State, bool)
	// Source is an owner's file, once it is complete.
	Source(owner string) importer.Source
	// Fail drops a file that is of no use, and keeps the reason.
	Fail(owner string, version int32, why upload.Failure) error
	Drop(owner string) error
}

// Door is where users send files to. The zero Door takes none.
type Door struct {
	// External and InCluster are what stands before a token: https://host/upload/.
	External, InCluster string
	// CAFile is a PEM file that verifies the door, for the command that people get;
	// empty where any client trusts it.
	CAFile string
}

// Upload is a file that is waited for, or has come.
type Upload struct {
	upload.State
	// URLs and Command are for users: nil and empty once no more is taken. They are
	// secrets of those who may see the owner.
	URLs    *imagev1.ImageUploadURLs
	Command string
}

func (d Door) show(state upload.State) *Upload {
	shown := &Upload{State: state}
	if state.Token == "" {
		return shown
	}
	shown.URLs = &imagev1.ImageUploadURLs{External: d.External + state.Token, InCluster: d.InCluster + state.Token}
	shown.Command = "curl "
	if d.CAFile != "" {
		shown.Command += "--cacert " + quote(d.CAFile) + " "
	}
	shown.Command += shown.URLs.GetExternal() + " -T FILE"
	return shown
}

// quote makes a path one word of a shell.
func quote(path string) string {
	if !strings.ContainsFunc(path, func(r rune) bool { return !strings.ContainsRune(plain, r) }) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-"

// isUpload reports whether a wish's file comes from a user.
func (i *Intake) isUpload(w Wish) bool {
	return i.Uploads != nil && w.Source.GetType() == imagev1.DataSourceType_Upload
}

// seeUpload notes how far the upload of a wish is, if there is one.
func (i *Intake) seeUpload(w Wish, o *Observation) {
	if !i.isUpload(w) {
		return
	}
	if state, found := i.Uploads.State(w.UID); found && state.Version == w.Version {
		o.Upload = i.Door.show(state)
	}
}

// receive sees to it that a user can send the file of a wish; true says that it
// has come, or comes from elsewhere.
func (i *Intake) receive(w Wish, o *Observation) (bool, error) {
	if !i.isUpload(w) {
		return true, i.dropUpload(w)
	}
	state, err := i.Uploads.Ensure(upload.Wish{Owner: w.UID, Version: w.Version, Changed: w.Changed})
	if err != nil {
		o.Unseen = fault.From(err)
		return false, err
	}
	o.Upload = i.Door.show(state)
	if state.Stage == upload.Failed {
		return false, fault.New(fault.Invalid, state.Failure.Reason, "%s", state.Failure.Message)
	}
	return state.Stage == upload.Complete, nil
}

// giveUp drops an uploaded file whose import failed for good.
func (i *Intake) giveUp(w Wish, state job.State) error {
	if !i.isUpload(w) || state.Stage != job.Failed {
		return nil
	}
	return i.Uploads.Fail(w.UID, w.Version, upload.Failure{Reason: reasonFailed, Message: job.Explain(state.Err)})
}

// dropUpload drops what a user sent and nobody needs any more.
func (i *Intake) dropUpload(w Wish) error {
	if i.Uploads == nil {
		return nil
	}
	return i.Uploads.Drop(w.UID)
}

// uploaded is the origin of a file that a user sent.
func (i *Intake) uploaded(w Wish) Origin {
	return Origin{File: &File{
		Source:   i.Uploads.Source(w.UID),
		Checksum: checksum(w.Source.GetUpload().GetChecksum()),
	}}
}

// progress is that of an upload, then of the file's import: half of the way each.
func (u *Upload) progress(imported *job.State) string {
	switch {
	case imported != nil && imported.Stage == job.Stopping, imported != nil && imported.Stage == job.Failed, u.Stage == upload.Failed:
		return ""
	case u.Stage == upload.Waiting:
		return "0%"
	case u.LengthBytes == upload.UnknownLength:
		return percent(0, 0)
	case imported == nil:
		return percent(u.ReceivedBytes, 2*u.LengthBytes)
	}
	return percent(u.LengthBytes+imported.Progress.ReadBytes, 2*u.LengthBytes)
}

// speed is that of the way from the user, which is the slow one.
func (u *Upload) speed() *imagev1.DownloadSpeed {
	if u.AverageBytesPerSecond == 0 {
		return nil
	}
	speed := &imagev1.DownloadSpeed{
		Avg: human(u.AverageBytesPerSecond) + "/s", AvgBytes: strconv.FormatInt(u.AverageBytesPerSecond, 10),
	}
	if u.BytesPerSecond > 0 {
		speed.Current, speed.CurrentBytes = human(u.BytesPerSecond)+"/s", strconv.FormatInt(u.BytesPerSecond, 10)
	}
	return speed
}

// Explain says in words for people how far an upload is that isn't complete.
func (u *Upload) Explain() string {
	switch {
	case u.Stage == upload.Failed:
		return u.Failure.Message
	case u.Stage == upload.Waiting:
		return "The file is waited for: status.uploadCommand says how to send it, and so does orlop upload."
	case u.LengthBytes == upload.UnknownLength:
		return human(u.ReceivedBytes) + " of the file have arrived."
	}
	return human(u.ReceivedBytes) + " of " + human(u.LengthBytes) + " have arrived."
}
