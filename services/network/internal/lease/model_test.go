package lease

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// deed is what somebody did with one address. Times are those of a clock that
// nobody can set: not before Began, not after Ended.
type deed struct {
	Verb         string
	Address      string
	Owner        Owner
	Began, Ended time.Duration
}

// outcome of a deed. One that is unknown was done at any time since, or never.
type outcome struct {
	Reason  string
	Unknown bool
}

// fate is whose an address is, or was.
type fate struct {
	owner Owner
	// kept is one that was given back, at the earliest at that time.
	kept  bool
	since time.Duration
}

// mayTake says whether an owner may have the address by then. Nothing but its
// owner or, once it was given back, its namespace may have it before the
// retention is over.
func (f fate) mayTake(d deed) bool {
	over := d.Ended-f.since >= Retention
	switch {
	case f.owner == (Owner{}):
		return true
	case !f.kept:
		return f.owner == d.Owner && d.Verb == callTake
	case d.Verb == callTake && f.owner.Namespace == d.Owner.Namespace:
		return true
	}
	return over
}

// step is what a deed makes of an address, if it may be.
func (f fate) step(d deed, o outcome) (bool, fate) {
	switch {
	case o.Reason != "":
		return true, f // judged by a copy that may lag, so it says nothing of now
	case d.Verb == callRelease:
		if f.owner == d.Owner && !f.kept {
			f = fate{owner: d.Owner, kept: true, since: d.Began}
		}
		return true, f
	case f.mayTake(d):
		return true, fate{owner: d.Owner}
	}
	return o.Unknown, f
}

// model is what addresses do.
func model() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byAddress := map[string][]porcupine.Operation{}
			for _, o := range history {
				at := o.Input.(deed).Address
				byAddress[at] = append(byAddress[at], o)
			}
			var all [][]porcupine.Operation
			for _, one := range byAddress {
				all = append(all, one)
			}
			return all
		},
		Init: func() any { return fate{} },
		Step: func(state, input, output any) (bool, any) {
			return state.(fate).step(input.(deed), output.(outcome))
		},
		DescribeOperation: func(input, output any) string {
			d, o := input.(deed), output.(outcome)
			return fmt.Sprintf("%s by %s at %s to %s: %+v", d.Verb, d.Owner.key(), d.Began, d.Ended, o)
		},
	}
}

func TestModelTellsGoodHistoriesFromBadOnes(t *testing.T) {
	// A line is "owner verb minute [reason]"; an owner's first letter is its
	// namespace.
	tests := map[string]struct {
		history string
		good    bool
	}{
		"one after the other":              {"a1 take 0, a1 release 1, b1 take 12", true},
		"its own again":                    {"a1 take 0, a1 take 1", true},
		"two owners":                       {"a1 take 0, a2 take 1", false},
		"two owners, one by chance":        {"a1 take 0, b1 pick 20", false},
		"its own by chance again":          {"a1 pick 0, a1 pick 1", false},
		"its namespace takes it again":     {"a1 take 0, a1 release 1, a2 take 2", true},
		"its namespace, by chance":         {"a1 take 0, a1 release 1, a2 pick 2", false},
		"another namespace, too early":     {"a1 take 0, a1 release 1, b1 take 10", false},
		"another namespace, at the minute": {"a1 take 0, a1 release 1, b1 take 11", true},
		"by chance, late enough":           {"a1 take 0, a1 release 1, b1 pick 11", true},
		"what another gave back":           {"a1 take 0, a2 release 1, b1 take 12", false},
		"refused as taken":                 {"a1 take 0, b1 take 1 LeaseAlreadyExists", true},
		"refused as kept":                  {"a1 take 0, a1 release 1, b1 take 2 LeaseNotReady", true},
		"lost with the process":            {"a1 take 0 ?, b1 take 2", true},
		"lost with the process, and done":  {"a1 take 0 ?, b1 take 1 LeaseAlreadyExists", true},
		"given back in the dark, early":    {"a1 take 0, a1 release 1 ?, b1 take 2", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var history []porcupine.Operation
			for i, line := range strings.Split(test.history, ", ") {
				history = append(history, parseDeed(t, i, line))
			}
			if porcupine.CheckOperations(model(), history) != test.good {
				t.Errorf("the model says that it is good: %t", !test.good)
			}
		})
	}
}

func parseDeed(t *testing.T, i int, line string) porcupine.Operation {
	t.Helper()
	words := strings.Fields(line)
	minute, err := time.ParseDuration(words[2] + "m")
	if err != nil {
		t.Fatal(err)
	}
	o := porcupine.Operation{
		ClientId: i, Call: int64(2 * i), Return: int64(2*i + 1),
		Input: deed{Verb: words[1], Address: "10.66.10.1", Owner: owner(words[0][:1], words[0]), Began: minute, Ended: minute},
	}
	var out outcome
	switch {
	case len(words) == 4 && words[3] == "?":
		out.Unknown, o.Return = true, 1000
	case len(words) == 4:
		out.Reason = IPForm().Reason(Reason(words[3]))
	}
	o.Output = out
	return o
}
