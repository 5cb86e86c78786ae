module orlop.dev/services/disk

go 1.26.0
