module orlop.dev/tools/toykind

go 1.26.0
