module orlop.dev/deploy/guest

go 1.26.0

require (
	go.yaml.in/yaml/v3 v3.0.5
	golang.org/x/sys v0.49.0
)
