package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Processor is what guests can see of a processor, in QEMU's words, under the
// host's accelerator.
type Processor struct {
	// Features are all that there are, sorted.
	Features []string
	// Models are the models that QEMU knows by name, each with those of its
	// features that there are not.
	Models map[string][]string
}

// examine asks QEMU (QMP query-cpu-definitions, query-cpu-model-expansion).
func examine(ctx context.Context, binary string, accelerator Accelerator) (Processor, error) {
	questions := fmt.Sprintf(`{"execute":"query-cpu-definitions"}`+
		`{"execute":"query-cpu-model-expansion","arguments":{"type":"static","model":{"name":%q}}}`, cpuModel("host", accelerator))
	out, err := converse(ctx, binary, questions, "-accel", string(accelerator))
	if err != nil {
		return Processor{}, err
	}
	p := Processor{Models: map[string][]string{}}
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var line struct{ Return json.RawMessage }
		if err := decoder.Decode(&line); err != nil {
			return Processor{}, err
		}
		p.read(line.Return)
	}
	if len(p.Models) == 0 || len(p.Features) == 0 {
		return Processor{}, errors.New("it does not say")
	}
	slices.Sort(p.Features)
	return p, nil
}

// read takes what it knows from a reply, which may be another's.
func (p *Processor) read(reply json.RawMessage) {
	var models []struct {
		Name    string
		Missing []string `json:"unavailable-features"`
	}
	if json.Unmarshal(reply, &models) == nil {
		for _, model := range models {
			p.Models[model.Name] = model.Missing
		}
		return
	}
	var expansion struct {
		Model struct{ Props map[string]any }
	}
	if json.Unmarshal(reply, &expansion) != nil {
		return
	}
	for feature, value := range expansion.Model.Props {
		if value == true {
			p.Features = append(p.Features, feature)
		}
	}
}
