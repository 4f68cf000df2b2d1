package ctl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/pmezard/go-difflib/difflib"
	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/resource"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

var fileFlag = &cli.StringSliceFlag{Name: "file", Aliases: []string{"f"}, Usage: "YAML `FILE`, directory of such, or - for standard input; repeat for several"}

func apply() *cli.Command {
	return verb("apply", "make things be as files declare them: all of it in one commit, or nothing",
		"sallyportctl apply -f access/", nil,
		[]cli.Flag{fileFlag, &cli.BoolFlag{Name: "dry-run", Usage: "only say what it would do"}},
		func(c *cli.Context, s *session) error {
			objects, err := readFiles(c)
			if err != nil {
				return err
			}
			return applyObjects(c, s, c.App.Writer, objects, &apiv1.ApplyRequest{DryRun: c.Bool("dry-run")}, nil)
		})
}

func diff() *cli.Command {
	return verb("diff", "show what apply would change; exit code 1 if anything", "sallyportctl diff -f access/", nil, []cli.Flag{fileFlag},
		func(c *cli.Context, s *session) error {
			objects, err := readFiles(c)
			if err != nil {
				return err
			}
			var result *apiv1.ApplyResult
			err = applyObjects(c, s, c.App.Writer, objects, &apiv1.ApplyRequest{DryRun: true}, func(r *apiv1.ApplyResult) error {
				result = r
				return nil
			})
			if err != nil {
				return err
			}
			different, err := printDiffs(c.App.Writer, objects, result)
			if err == nil && different {
				err = process.WithExitCode(errors.New(""), process.Failed) // as diff(1): not an error to speak of
			}
			return err
		})
}

func printDiffs(w io.Writer, objects []*resource.Object, result *apiv1.ApplyResult) (different bool, err error) {
	for _, a := range result.GetApplied() {
		if a.Action == "unchanged" || int(a.Index) >= len(objects) {
			continue
		}
		var before, after []byte
		if a.Before != nil {
			if before, err = resource.Write(a.Before); err != nil {
				return false, err
			}
		}
		if after, err = resource.Write(a.After); err != nil {
			return false, err
		}
		text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
			A: difflib.SplitLines(string(before)), B: difflib.SplitLines(string(after)), Context: 3,
			FromFile: "coordinator " + label(a.After), ToFile: objects[a.Index].Where("") + " " + label(a.After),
		})
		if err != nil {
			return false, fmt.Errorf("comparing: %w", err)
		}
		different = true
		if _, err := io.WriteString(w, text); err != nil {
			return false, err
		}
	}
	return different, nil
}

// label is how a resource is called in one line.
func label(r *apiv1.Resource) string {
	if g := r.GetGrant(); g != nil {
		return clean(fmt.Sprintf("grant of %s to %s%s on %s%s", g.Role, g.User, g.Group, g.Project, g.Cluster))
	}
	return clean(strings.ToLower(resource.Kind(r)) + " " + r.GetName())
}

// applyObjects sends a set and prints what became of it: through then, or as a
// table. Then come the agents.
func applyObjects(c *cli.Context, s *session, w io.Writer, objects []*resource.Object, req *apiv1.ApplyRequest, then func(*apiv1.ApplyResult) error) error {
	for _, o := range objects {
		req.Resources = append(req.Resources, o.Resource)
	}
	stream, err := s.admin.Apply(c.Context, connect.NewRequest(req))
	if err != nil {
		return err
	}
	defer stream.Close()
	more := stream.Receive()
	if err := stream.Err(); err != nil {
		return placed(c, objects, err)
	}
	result := stream.Msg().GetResult()
	if !more || result == nil {
		return errors.New("the coordinator did not say what it did")
	}
	if then != nil {
		err = then(result)
	} else {
		err = printApplied(c, result, req.DryRun)
	}
	// The agents are waited for whatever happened to our output.
	return errors.Join(err, effectsOf(c, w, applyEffects{stream}))
}

// applyEffects are the effects behind an apply's result.
type applyEffects struct {
	*connect.ServerStreamForClient[apiv1.ApplyResponse]
}

func (e applyEffects) Msg() *apiv1.Effect { return e.ServerStreamForClient.Msg().GetEffect() }

func printApplied(c *cli.Context, result *apiv1.ApplyResult, dry bool) error {
	var rows [][]string
	for _, a := range result.Applied {
		action := a.Action
		if dry && action != "unchanged" {
			action = "would be " + action
		}
		rows = append(rows, []string{label(a.After), action})
	}
	return show(c, result, []string{"OBJECT", "ACTION"}, rows)
}

// placed says of everything that is wrong with a set where in which file it
// stands.
func placed(c *cli.Context, objects []*resource.Object, err error) error {
	var from *connect.Error
	if !errors.As(err, &from) {
		return err
	}
	for _, d := range from.Details() {
		msg, derr := d.Value()
		all, ok := msg.(*apiv1.ApplyProblems)
		if derr != nil || !ok {
			continue
		}
		var lines []string
		hint := ""
		for _, p := range all.Problems {
			if int(p.Index) < len(objects) {
				lines = append(lines, fmt.Sprintf("%s: %s: %s", objects[p.Index].Where(p.Field), p.Field, p.Message))
			}
			if hint == "" {
				hint = p.Hint
			}
		}
		return refusedSet(c, lines, hint)
	}
	return err
}

// refusedSet prints everything that is wrong, a line each, and is the error.
func refusedSet(c *cli.Context, lines []string, hint string) error {
	if len(lines) == 0 {
		lines = []string{"the coordinator refused the set without saying why"}
	}
	for _, line := range lines[1:] {
		fmt.Fprintf(c.App.ErrWriter, "also: %s\n", clean(line))
	}
	err := process.WithExitCode(errors.New(lines[0]), process.Misused)
	if hint == "" {
		hint = "nothing was applied: put it right and apply again"
	}
	return process.Hint(err, hint)
}

// readFiles reads what -f names.
func readFiles(c *cli.Context) ([]*resource.Object, error) {
	paths := c.StringSlice("file")
	if len(paths) == 0 {
		return nil, usage(c, errors.New("--file is missing"))
	}
	var objects []*resource.Object
	var wrong []string
	for _, path := range paths {
		files, err := filesOf(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			found, err := readFile(c, file)
			objects = append(objects, found...)
			if err != nil {
				wrong = append(wrong, strings.Split(err.Error(), "\n")...)
			}
		}
	}
	if len(wrong) > 0 {
		return nil, refusedSet(c, wrong, "")
	}
	if len(objects) == 0 {
		return nil, process.WithExitCode(fmt.Errorf("%s declares nothing", strings.Join(paths, ", ")), process.Misused)
	}
	return objects, nil
}

// filesOf lists a directory's YAML files, in order, or the file itself.
func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if path == "-" || err == nil && !info.IsDir() {
		return []string{path}, nil
	}
	if err != nil {
		return nil, err
	}
	var files []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(p)) {
			files = append(files, p)
		}
		return err
	})
	return files, err
}

func readFile(c *cli.Context, path string) ([]*resource.Object, error) {
	if path == "-" {
		return resource.Read("standard input", c.App.Reader)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return resource.Read(path, f)
}

// get prints what is declared, as apply takes it.
func get() *cli.Command {
	return verb("get", "print what is declared, as files for apply: all, or projects, users, groups, roles, clusters, grants",
		"sallyportctl get all -o yaml", []string{"KIND"},
		[]cli.Flag{&cli.StringSliceFlag{Name: "name", Usage: "only `NAME` (or id); repeat for several"}},
		func(c *cli.Context, s *session) error {
			req := &apiv1.ExportRequest{Refs: c.StringSlice("name")}
			if kind := strings.TrimSuffix(strings.ToLower(c.Args().First()), "s"); kind != "all" {
				req.Kinds = []string{kind}
			}
			res, err := s.admin.Export(c.Context, connect.NewRequest(req))
			if err != nil {
				return err
			}
			if c.String("output") == "yaml" {
				var out bytes.Buffer
				for _, r := range res.Msg.Resources {
					text, err := resource.Write(r)
					if err != nil {
						return err
					}
					fmt.Fprintf(&out, "---\n%s", text)
				}
				_, err := c.App.Writer.Write(out.Bytes())
				return err
			}
			var rows [][]string
			for _, r := range res.Msg.Resources {
				rows = append(rows, []string{label(r), resource.Kind(r)})
			}
			return show(c, res.Msg, []string{"OBJECT", "KIND"}, rows)
		})
}
