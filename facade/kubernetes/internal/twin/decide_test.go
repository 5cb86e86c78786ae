package twin

import "testing"

func TestDecide(t *testing.T) {
	side := func(digest string) *Side { return &Side{Digest: digest} }
	deleting := func(digest string) *Side { return &Side{Digest: digest, Deleting: true} }
	none := Agreement{}
	agreed := Agreement{Digest: "a", Store: "s"}
	elsewhere := Agreement{Digest: "a", Store: "lost"}

	tests := []struct {
		reason      string
		cr, service *Side
		agreed      Agreement
		want        Action
	}{
		{"neither is there", nil, nil, none, Rest},
		{"a new custom resource goes down", side("a"), nil, none, CreateInService},
		{"an agreement with a lost store makes it anew", side("a"), nil, elsewhere, CreateInService},
		{"gone from the store it was agreed with: deleted elsewhere", side("a"), nil, agreed, DeleteInKubernetes},
		{"edited and deleted elsewhere at once: deletion wins", side("b"), nil, agreed, DeleteInKubernetes},
		{"deleting and the service has none", deleting("a"), nil, agreed, Release},
		{"deleting and never reached the service", deleting("a"), nil, none, Release},
		{"made by the service", nil, side("a"), none, CreateInKubernetes},
		{"the service's is going and was never shown", nil, deleting("a"), none, Rest},
		{"deleted by kubectl", deleting("a"), side("a"), agreed, DeleteInService},
		{"deleted by kubectl after a lost store", deleting("a"), side("a"), elsewhere, DeleteInService},
		{"deleted through another door", side("a"), deleting("a"), agreed, DeleteInKubernetes},
		{"both are going", deleting("a"), deleting("a"), agreed, Rest},
		{"alike and remembered", side("a"), side("a"), agreed, Rest},
		{"alike after both changed the same way", side("b"), side("b"), agreed, Mark},
		{"alike at the first meeting", side("a"), side("a"), none, Mark},
		{"only the custom resource changed", side("b"), side("a"), agreed, Push},
		{"only the service's changed", side("a"), side("b"), agreed, Pull},
		{"both changed", side("b"), side("c"), agreed, PushOverConflict},
		{"different twins meet for the first time", side("a"), side("b"), none, PushOverConflict},
		{"different twins meet after a lost store", side("a"), side("b"), elsewhere, PushOverConflict},
	}
	for _, test := range tests {
		t.Run(test.reason, func(t *testing.T) {
			if got := Decide(test.cr, test.service, test.agreed, "s"); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}
