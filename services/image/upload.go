package image

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"orlop.dev/services/image/internal/diskimage"
	"orlop.dev/services/image/internal/intake"
	"orlop.dev/services/image/internal/upload"
)

// DefaultUploadTimeout is how long an upload is waited for without a byte.
const DefaultUploadTimeout = upload.DefaultTimeout

// Uploads say where users send files to.
type Uploads struct {
	// URL is the gateway as users outside know it: https://host:port. Where it is
	// empty, sources of type Upload are refused.
	URL string
	// InClusterURL is the gateway as those in the cluster know it; URL where it is
	// empty.
	InClusterURL string
	// CAFile is a PEM file on the users' machine that verifies the gateway, which
	// status.uploadCommand names; empty where they trust it anyway.
	CAFile string
	// Timeout is how long an upload is waited for without a byte;
	// DefaultUploadTimeout where it is 0.
	Timeout time.Duration
}

func (u Uploads) validate() error {
	var problems []error
	for name, text := range map[string]string{"URL": u.URL, "InClusterURL": u.InClusterURL} {
		if text == "" {
			continue
		}
		if parsed, err := url.Parse(text); err != nil || parsed.Host == "" || parsed.Scheme != "https" && parsed.Scheme != "http" {
			problems = append(problems, fmt.Errorf("field %s of Uploads: %q is no http or https address", name, text))
		}
	}
	if u.Timeout < 0 {
		problems = append(problems, errors.New("field Timeout of Uploads must not be negative"))
	}
	return errors.Join(problems...)
}

// door is where a token stands behind.
func (u Uploads) door() intake.Door {
	inside := u.InClusterURL
	if inside == "" {
		inside = u.URL
	}
	return intake.Door{External: beforeToken(u.URL), InCluster: beforeToken(inside), CAFile: u.CAFile}
}

func beforeToken(base string) string { return strings.TrimSuffix(base, "/") + "/upload/" }

// newUploads makes the store of uploads in the staging directory.
func newUploads(o Options) (*upload.Store, error) {
	return upload.New(upload.Options{
		Dir: filepath.Join(o.StagingDir, "uploads"), MaxBytes: diskimage.Limits{VirtualBytes: o.Limits.MaxVirtualBytes}.File(),
		Timeout: o.Uploads.Timeout, Logger: o.Logger,
	})
}
