module orlop.dev/services/vm

go 1.26.0
