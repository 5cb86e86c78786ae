module orlop.dev/services/disk

go 1.26.0

require (
	orlop.dev/gen v0.0.0
	orlop.dev/kit v0.0.0
)

replace (
	orlop.dev/gen => ../../gen
	orlop.dev/kit => ../../kit
)
