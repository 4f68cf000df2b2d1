package ctl

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/sallyport-mesh/sallyport/coordinator/internal/resource"
	apiv1 "github.com/sallyport-mesh/sallyport/pkg/api/sallyport/v1"
	"github.com/sallyport-mesh/sallyport/pkg/pki"
	"github.com/sallyport-mesh/sallyport/pkg/process"
)

func importUsers() *cli.Command {
	return verb("import", "add many users at once, all or none, from CSV (name,display_name,groups) or a directory of YAML",
		"sallyportctl import -f users.csv --links links.csv", nil,
		[]cli.Flag{
			fileFlag,
			&cli.StringFlag{Name: "links", Usage: "write the links where they choose a password to `FILE`, readable by you alone; without it, to standard output"},
			&cli.BoolFlag{Name: "dry-run", Usage: "only say what it would do"},
		},
		func(c *cli.Context, s *session) error {
			objects, err := readImport(c)
			if err != nil {
				return err
			}
			links := c.String("links")
			if links != "" {
				// Before anything is made: the links exist nowhere else.
				if _, err := os.Lstat(links); !errors.Is(err, os.ErrNotExist) {
					return process.WithExitCode(process.Hint(fmt.Errorf("--links: %s is there already", links), "name a file that does not exist"), exitConflict)
				}
				if info, err := os.Stat(filepath.Dir(links)); err != nil || !info.IsDir() {
					return fmt.Errorf("--links: %s is not in a directory that exists", links)
				}
			}
			req := &apiv1.ApplyRequest{DryRun: c.Bool("dry-run"), Import: true, Welcome: true}
			// Standard output is for the links alone.
			return applyObjects(c, s, c.App.ErrWriter, objects, req, func(r *apiv1.ApplyResult) error {
				if c.Bool("dry-run") {
					return printApplied(c, r, true)
				}
				return writeLinks(c, links, r)
			})
		})
}

// writeLinks writes who was made with the link of each, as CSV.
func writeLinks(c *cli.Context, path string, r *apiv1.ApplyResult) error {
	var out strings.Builder
	w := csv.NewWriter(&out)
	rows, made := [][]string{{"name", "link"}}, 0
	for _, a := range r.Applied {
		if a.After.GetUser() == nil {
			fmt.Fprintf(c.App.ErrWriter, "%s %s\n", label(a.After), a.Action)
			continue
		}
		made++
		rows = append(rows, []string{a.After.Name, a.WelcomeUrl})
	}
	if err := w.WriteAll(rows); err != nil {
		return fmt.Errorf("writing links: %w", err)
	}
	fmt.Fprintf(c.App.ErrWriter, "%d users made\n", made)
	if path == "" {
		_, err := io.WriteString(c.App.Writer, out.String())
		return err
	}
	if err := pki.WriteFile(path, []byte(out.String())); err != nil {
		return process.Hint(fmt.Errorf("the users were made, but their links were not saved: %w", err), "make new ones: sallyportctl user password NAME")
	}
	return nil
}

func readImport(c *cli.Context) ([]*resource.Object, error) {
	for _, path := range c.StringSlice("file") {
		if strings.ToLower(filepath.Ext(path)) != ".csv" {
			continue
		}
		if len(c.StringSlice("file")) > 1 {
			return nil, usage(c, errors.New("import takes one CSV file at a time"))
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		people, wrong := readCSV(path, f)
		if len(wrong) > 0 {
			return nil, refusedSet(c, wrong, "nothing was imported: put it right and import again")
		}
		return people.objects(), nil
	}
	return readFiles(c)
}

// row is a person of a CSV file.
type row struct {
	line          int
	name, display string
	groups        []string
}

type people struct {
	file string
	rows []row
}

// maxImport bounds what is read of a CSV file.
const maxImport = 4 << 20

// readCSV reads people, and says of every bad row what is wrong with it.
func readCSV(file string, in io.Reader) (people, []string) {
	p, r := people{file: file}, csv.NewReader(io.LimitReader(in, maxImport))
	r.FieldsPerRecord, r.TrimLeadingSpace = -1, true
	header, err := r.Read()
	if err != nil {
		return p, []string{fmt.Sprintf("%s:1: no header: %v", file, err)}
	}
	column := map[string]int{}
	var wrong []string
	for i, name := range header {
		name = strings.ToLower(strings.TrimSpace(strings.TrimPrefix(name, "\ufeff")))
		if !slices.Contains([]string{"name", "display_name", "groups"}, name) {
			wrong = append(wrong, fmt.Sprintf("%s:1: no such column %q: there are name, display_name, groups", file, name))
		}
		column[name] = i
	}
	if _, ok := column["name"]; !ok {
		wrong = append(wrong, file+":1: the column name is missing")
	}
	if len(wrong) > 0 {
		return p, wrong
	}
	first := map[string]int{}
	for {
		fields, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return p, append(wrong, fmt.Sprintf("%s: %v", file, err))
		}
		line, _ := r.FieldPos(0)
		cell := func(name string) string {
			if i, ok := column[name]; ok && i < len(fields) {
				return strings.TrimSpace(fields[i])
			}
			return ""
		}
		x := row{line: line, name: cell("name"), display: cell("display_name")}
		x.groups = strings.FieldsFunc(cell("groups"), func(r rune) bool { return r == ';' || r == ',' || r == ' ' })
		switch {
		case len(fields) != len(header):
			wrong = append(wrong, fmt.Sprintf("%s:%d: has %d columns, the header %d", file, line, len(fields), len(header)))
		case x.name == "":
			wrong = append(wrong, fmt.Sprintf("%s:%d: name: is missing", file, line))
		case first[x.name] != 0:
			wrong = append(wrong, fmt.Sprintf("%s:%d: name: %q stands in line %d already", file, line, x.name, first[x.name]))
		default:
			first[x.name] = line
			p.rows = append(p.rows, x)
		}
	}
	if len(p.rows) == 0 && len(wrong) == 0 {
		wrong = append(wrong, file+": holds no people")
	}
	return p, wrong
}

// objects declares the people, and that they are in their groups.
func (p people) objects() []*resource.Object {
	var objects []*resource.Object
	joining := map[string][]string{}
	at := map[string]int{}
	var order []string
	for _, x := range p.rows {
		objects = append(objects, resource.New(p.file, x.line, &apiv1.Resource{
			Name: x.name, Spec: &apiv1.Resource_User{User: &apiv1.UserSpec{DisplayName: x.display}},
		}))
		for _, g := range x.groups {
			if joining[g] == nil {
				order, at[g] = append(order, g), x.line
			}
			joining[g] = append(joining[g], x.name)
		}
	}
	for _, g := range order {
		spec := &apiv1.GroupSpec{Members: joining[g]}
		objects = append(objects, resource.New(p.file, at[g], &apiv1.Resource{Name: g, Spec: &apiv1.Resource_Group{Group: spec}}))
	}
	return objects
}
