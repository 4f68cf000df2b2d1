package ctl

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"
)

// formats that --output takes.
var formats = []string{"table", "json", "yaml", "name"}

// show prints one answer: as JSON or YAML for programs, as a table for people,
// or only the names in the table's first column.
func show(c *cli.Context, msg proto.Message, header []string, rows [][]string) error {
	if c.String("output") == "name" {
		for _, row := range rows {
			fmt.Fprintln(c.App.Writer, row[0])
		}
		return nil
	}
	if forPrograms(c) {
		return printMessage(c, msg)
	}
	return table(c.App.Writer, header, rows)
}

// section is one table of a detail page.
type section struct {
	title  string
	header []string
	rows   [][]string
}

// detail prints one object: its fields, then what hangs on it.
func detail(c *cli.Context, msg proto.Message, fields [][2]string, sections ...section) error {
	if c.String("output") == "name" {
		fmt.Fprintln(c.App.Writer, fields[0][1])
		return nil
	}
	if forPrograms(c) {
		return printMessage(c, msg)
	}
	w := c.App.Writer
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, f := range fields {
		fmt.Fprintf(t, "%s\t%s\n", f[0], clean(f[1]))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, s := range sections {
		if len(s.rows) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s\n", s.title)
		if err := table(w, s.header, s.rows); err != nil {
			return err
		}
	}
	return nil
}

func forPrograms(c *cli.Context) bool {
	return c.String("output") == "json" || c.String("output") == "yaml"
}

// printMessage prints what the coordinator answered, as JSON or YAML.
func printMessage(c *cli.Context, msg proto.Message) error {
	raw, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(msg)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	return printRaw(c, append(raw, '\n'))
}

// printRaw prints JSON, as it is or as one YAML document.
func printRaw(c *cli.Context, raw []byte) error {
	if c.String("output") == "yaml" {
		text, err := yaml.JSONToYAML(raw)
		if err != nil {
			return fmt.Errorf("encoding the answer: %w", err)
		}
		raw = append([]byte("---\n"), text...)
	}
	_, err := c.App.Writer.Write(raw)
	return err
}

func table(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, strings.Join(header, "\t"))
	for _, row := range rows {
		for i, cell := range row {
			row[i] = clean(cell)
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// clean keeps what others wrote from moving the terminal's cursor.
func clean(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// when prints a moment in local time, shortly.
func when(t *timestamppb.Timestamp) string {
	if !t.IsValid() || t.AsTime().Unix() <= 0 {
		return "-"
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05")
}

// ago reads "1h", "90m" or a date, as a moment before now.
func ago(s string, now time.Time) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return timestamppb.New(now.Add(-d)), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, fmt.Errorf("%q is neither a duration like 1h nor a date like 2026-01-31", s)
}
