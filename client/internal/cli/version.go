package cli

import (
	"runtime"

	"github.com/urfave/cli/v2"
)

func versionCommand() *cli.Command {
	return verb(cli.Command{
		Name:        "version",
		Usage:       "print the version",
		Description: "Example: sallyport version",
	}, 0, func(_ *cli.Context, h *here) error {
		h.say("sallyport %s (%s, %s/%s)", h.version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	})
}
