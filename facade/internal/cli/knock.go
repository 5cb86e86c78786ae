package cli

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"orlop.dev/facade/home"
	"orlop.dev/kit/serve"
)

const knockTimeout = 10 * time.Second

// StatusError is a door that answers, but not that it is well.
type StatusError struct{ Code int }

func (e *StatusError) Error() string {
	return fmt.Sprintf("it says %d %s", e.Code, http.StatusText(e.Code))
}

// knock asks the REST door at an address for its health, as a user would who
// trusts the folder's CA. No token is needed.
func knock(ctx context.Context, h home.Home, address string) error {
	roots, err := serve.LoadPool(h.CACertificate())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, knockTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/healthz", nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: serve.ClientTLS(roots)}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return &StatusError{Code: response.StatusCode}
	}
	return nil
}
