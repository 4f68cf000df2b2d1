package process

import (
	"strings"

	"github.com/urfave/cli/v2"
)

// Arrange puts a command line into the order that urfave/cli reads: global
// flags, commands, the command's flags, arguments. People write flags behind
// arguments and global ones behind the command; both mean the same to them.
// args begins with the program's name. What follows "--" is left as it is.
func Arrange(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	var global, path, local, rest []string
	commands, flags := app.Commands, app.Flags
	top := takesValue(app.Flags)
	for i := 1; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			rest = append(rest, args[i:]...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			if c := find(commands, arg); c != nil && len(rest) == 0 {
				path, commands, flags = append(append(path, local...), arg), c.Subcommands, c.Flags
				local = nil
			} else {
				rest = append(rest, arg)
			}
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		into, takes := &local, takesValue(flags)
		if _, known := takes[name]; !known {
			if _, known := top[name]; known {
				into, takes = &global, top
			}
		}
		*into = append(*into, arg)
		if takes[name] && !hasValue && i+1 < len(args) {
			i++
			*into = append(*into, args[i])
		}
	}
	out := append([]string{args[0]}, global...)
	out = append(out, path...)
	out = append(out, local...)
	return append(out, rest...)
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// takesValue tells for each flag whether a value follows it.
func takesValue(flags []cli.Flag) map[string]bool {
	out := map[string]bool{}
	for _, f := range flags {
		_, isBool := f.(*cli.BoolFlag)
		for _, n := range f.Names() {
			out[n] = !isBool
		}
	}
	return out
}
