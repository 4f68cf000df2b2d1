// Command sallyportctl administers a Sallyport coordinator.
package main

import (
	"context"
	"os"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/ctl"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// version is set by the build.
var version = "dev"

func main() {
	process.Main("sallyportctl", func(ctx context.Context) error {
		return ctl.Run(ctx, version, os.Args[1:], os.Stdout, os.Stderr)
	})
}
