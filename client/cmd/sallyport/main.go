// Command sallyport is the client: it logs in, joins the overlay, and keeps
// kubeconfig right. See sallyport --help.
package main

import (
	"context"
	"os"

	"github.com/sallyport-mesh/sallyport/client/internal/cli"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

// version is set by the linker: -X main.version=0.1.0.
var version = "dev"

func main() {
	process.Main("sallyport", func(ctx context.Context) error { return cli.Run(ctx, version, os.Args) })
}
