package auth

import "context"

// Authenticator turns a bearer token into a user. A token that it doesn't know
// is a fault of class Unauthenticated; any other fault means that it could not
// tell. It is called once a call, so it should answer from memory mostly.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (User, error)
}

// Authorizer says whether a user may do something. An error means that it
// could not tell, and the call is not let through.
type Authorizer interface {
	Authorize(ctx context.Context, u User, a Attributes) (Decision, error)
}

// Attributes describe what somebody wants to do, in the words of Kubernetes'
// RBAC.
type Attributes struct {
	Verb        string
	Group       string
	Resource    string
	Subresource string
	// Namespace is empty for kinds of the cluster, and for all namespaces.
	Namespace string
	// Name is empty where no single object is meant.
	Name string
}

// Decision is an Authorizer's answer.
type Decision struct {
	Allowed bool
	// Reason explains the decision to people. It may be empty.
	Reason string
}
