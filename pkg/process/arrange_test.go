package process

import (
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestFlagsMayStandBehindArguments(t *testing.T) {
	app := &cli.App{
		Flags: []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}}, &cli.BoolFlag{Name: "debug"}},
		Commands: []*cli.Command{{
			Name: "user",
			Subcommands: []*cli.Command{{
				Name:  "suspend",
				Flags: []cli.Flag{&cli.StringFlag{Name: "project"}, &cli.BoolFlag{Name: "force"}},
			}},
		}},
	}
	for in, want := range map[string]string{
		"ctl user suspend shivam --project aws":         "ctl user suspend --project aws shivam",
		"ctl user suspend shivam --project=aws -o json": "ctl -o json user suspend --project=aws shivam",
		"ctl --debug user suspend --force shivam":       "ctl --debug user suspend --force shivam",
		"ctl user --output json suspend shivam":         "ctl --output json user suspend shivam",
		"ctl user suspend user --project aws":           "ctl user suspend --project aws user",
		"ctl user suspend shivam --bogus":               "ctl user suspend --bogus shivam",
		"ctl user suspend -- --project":                 "ctl user suspend -- --project",
		"ctl user suspend shivam --project":             "ctl user suspend --project shivam",
		"ctl":                                           "ctl",
	} {
		if got := strings.Join(Arrange(app, strings.Fields(in)), " "); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}
