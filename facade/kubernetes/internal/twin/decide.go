package twin

// Action is the one thing to do next about a pair of twins.
type Action string

// The actions, in the words of what they do to which side.
const (
	Rest               Action = "Rest"               // nothing to do but show the status
	CreateInService    Action = "CreateInService"    // the service has never seen it
	CreateInKubernetes Action = "CreateInKubernetes" // made by the service or through another door
	DeleteInService    Action = "DeleteInService"    // the user deleted the custom resource
	DeleteInKubernetes Action = "DeleteInKubernetes" // it was deleted through another door
	Release            Action = "Release"            // the service is done: let the custom resource go
	Push               Action = "Push"               // the custom resource changed
	PushOverConflict   Action = "PushOverConflict"   // both changed: the custom resource wins, and people are told
	Pull               Action = "Pull"               // the service's object changed
	Mark               Action = "Mark"               // both are alike, and the memory of it is old
)

// Side is what counts of one twin.
type Side struct {
	// Digest of what a user may change: spec, labels, annotations, owners.
	Digest string
	// Deleting is true once deletion was asked for.
	Deleting bool
}

// Agreement is what both sides last agreed on, as the custom resource
// remembers it.
type Agreement struct {
	Digest string
	// Store identifies the service's store that the agreement was made with.
	Store string
}

// Decide compares the twins; nil means that there is none. store is the
// service's store as it is now: an agreement with another store says nothing,
// so that a lost store makes objects anew and never deletes them.
func Decide(cr, service *Side, agreed Agreement, store string) Action {
	if agreed.Store != store {
		agreed = Agreement{}
	}
	switch {
	case cr == nil && service == nil:
		return Rest
	case service == nil:
		return decideAlone(cr, agreed)
	case cr == nil && service.Deleting:
		return Rest
	case cr == nil:
		return CreateInKubernetes
	case cr.Deleting && service.Deleting:
		return Rest
	case cr.Deleting:
		return DeleteInService
	case service.Deleting:
		return DeleteInKubernetes
	}
	return decideDifference(cr.Digest, service.Digest, agreed.Digest)
}

func decideAlone(cr *Side, agreed Agreement) Action {
	switch {
	case cr.Deleting:
		return Release
	case agreed.Digest != "":
		return DeleteInKubernetes
	}
	return CreateInService
}

func decideDifference(cr, service, agreed string) Action {
	switch {
	case cr == service && service == agreed:
		return Rest
	case cr == service:
		return Mark
	case service == agreed:
		return Push
	case cr == agreed:
		return Pull
	}
	return PushOverConflict
}
