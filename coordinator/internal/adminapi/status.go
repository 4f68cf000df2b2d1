package adminapi

import (
	"fmt"

	"connectrpc.com/connect"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/caller"
	"github.com/sallyport-mesh/sallyport/coordinator/internal/status"
)

func unauthenticated(c *caller.Caller) error {
	return status.Unauthenticated(c, "a user's certificate")
}

func refused(c *caller.Caller, obj, action string) error {
	who := "the local socket"
	if c.User != nil {
		who = c.User.Name
	}
	return status.Hinted(connect.NewError(connect.CodePermissionDenied, fmt.Errorf("%s may not %s %s here", who, action, obj)),
		"see your admin roles: sallyportctl whoami")
}
