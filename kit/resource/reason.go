package resource

// Reasons of faults that the store and the standard methods give.
const (
	// ReasonNotFound: no object of that name (class NotFound).
	ReasonNotFound = "NotFound"
	// ReasonAlreadyExists: the name is taken (class Exists).
	ReasonAlreadyExists = "AlreadyExists"
	// ReasonConflict: the object is not, or no longer, the one that the caller
	// means, by version or by UID (class Stale).
	ReasonConflict = "Conflict"
	// ReasonTooOld: the version to start from, or the list to go on with, is no
	// longer known; list again (class Stale).
	ReasonTooOld = "ResourceVersionTooOld"
	// ReasonNotSynced: the copy in memory isn't complete yet (class Transient).
	ReasonNotSynced = "StoreNotSynced"
	// ReasonUnavailable: etcd can't be reached (class Transient).
	ReasonUnavailable = "StoreUnavailable"
	// ReasonTerminating: the object is being deleted and takes no new holders
	// (class NotReady).
	ReasonTerminating = "Terminating"
)
