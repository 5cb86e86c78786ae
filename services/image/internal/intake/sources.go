package intake

import (
	"context"
	"net/netip"

	imagev1 "orlop.dev/gen/orlop/image/v1"
	"orlop.dev/kit/fault"
	"orlop.dev/services/image/internal/containerimage"
	"orlop.dev/services/image/internal/importer"
	"orlop.dev/services/image/internal/pullsecret"
	"orlop.dev/services/image/internal/source"
)

// ReasonNotSupported names what the schema allows and nothing here does yet.
const ReasonNotSupported = "NotSupported"

// attempts is how often a source is asked again within one attempt of an import,
// where Retry doesn't say: it takes a quarter of a minute.
const attempts = 5

// Secrets have the credentials of registries.
type Secrets interface {
	Read(ctx context.Context, namespace, name string) (containerimage.Keychain, error)
}

// Sources are the origins outside: web servers and registries.
type Sources struct {
	// AllowPrivate are networks that sources may be in although they are not
	// public.
	AllowPrivate []netip.Prefix
	// Retry paces attempts within an import, whose failures aren't told before
	// the last.
	Retry   source.Retry
	Secrets Secrets
	// MaxBytes bounds what a layer of a registry's image unpacks to.
	MaxBytes int64
}

// Origin implements Origins.
func (s Sources) Origin(ctx context.Context, w Wish) (Origin, error) {
	switch kind := w.Source.GetType(); kind {
	case imagev1.DataSourceType_HTTP:
		return s.http(w.Source.GetHttp()), nil
	case imagev1.DataSourceType_ContainerImage:
		return s.containerImage(ctx, w.Namespace, w.Source.GetContainerImage())
	default:
		return Origin{}, fault.New(fault.Invalid, ReasonNotSupported, "a source of type %s is not supported yet", kind)
	}
}

// containerImage looks whether the pull secret is there, so that the image can
// say that it waits for it. It is read again when the registry is asked: nothing
// here remembers it.
func (s Sources) containerImage(ctx context.Context, namespace string, from *imagev1.ContainerImageSource) (Origin, error) {
	o := containerimage.Options{Image: from.GetImage(), HTTP: s.options("", from.GetCaBundle()), MaxBytes: s.MaxBytes}
	if name := from.GetImagePullSecret().GetName(); name != "" {
		o.Keychain = func(ctx context.Context) (containerimage.Keychain, error) {
			return s.Secrets.Read(ctx, namespace, name)
		}
		if _, err := o.Keychain(ctx); err != nil {
			return Origin{}, missing(err)
		}
	}
	return Origin{File: &File{Source: containerimage.New(o)}}, nil
}

// missing says of a failure whether waiting can help.
func missing(err error) error {
	f := fault.From(classify(err))
	if f.Reason == string(pullsecret.ReasonNotFound) {
		return fault.New(fault.NotReady, f.Reason, "%s", f.Message)
	}
	return f
}

func (s Sources) http(from *imagev1.HTTPSource) Origin {
	return Origin{File: &File{
		Source:   importer.HTTP(s.options(from.GetUrl(), from.GetCaBundle())),
		Checksum: checksum(from.GetChecksum()),
	}}
}

// options are what all sources outside have in common.
func (s Sources) options(url string, caBundle []byte) source.Options {
	retry := s.Retry
	if retry.Attempts == 0 {
		retry.Attempts = attempts
	}
	return source.Options{URL: url, CABundle: caBundle, AllowPrivate: s.AllowPrivate, Retry: retry}
}

func checksum(sum *imagev1.Checksum) importer.Checksum {
	return importer.Checksum{MD5: sum.GetMd5(), SHA1: sum.GetSha1(), SHA256: sum.GetSha256(), SHA512: sum.GetSha512()}
}
