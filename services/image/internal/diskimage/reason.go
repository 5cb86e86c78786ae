package diskimage

import "orlop.dev/services/image/internal/failure"

// Why an image is refused. All of them are terminal.
const (
	ReasonEmpty              failure.Reason = "EmptyImage"
	ReasonTruncated          failure.Reason = "TruncatedImage"
	ReasonCorrupt            failure.Reason = "CorruptImage"
	ReasonUnsupportedFormat  failure.Reason = "UnsupportedFormat"
	ReasonUnsupportedFeature failure.Reason = "UnsupportedFeature"
	ReasonBackingFile        failure.Reason = "BackingFile"
	ReasonExternalData       failure.Reason = "ExternalDataFile"
	ReasonExternalExtent     failure.Reason = "ExternalExtent"
	ReasonEncrypted          failure.Reason = "EncryptedImage"
	ReasonInternalSnapshots  failure.Reason = "InternalSnapshots"
	ReasonTooLarge           failure.Reason = "VirtualSizeTooLarge"
)

func corrupt(format string, args ...any) error {
	return failure.Terminalf(ReasonCorrupt, format, args...)
}
