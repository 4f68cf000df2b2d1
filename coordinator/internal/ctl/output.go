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
)

// show prints one answer: as JSON for programs, as a table for people, or only
// the names in the table's first column.
func show(c *cli.Context, msg proto.Message, header []string, rows [][]string) error {
	switch c.String("output") {
	case "json":
		return printJSON(c.App.Writer, msg)
	case "name":
		for _, row := range rows {
			fmt.Fprintln(c.App.Writer, row[0])
		}
		return nil
	}
	return table(c.App.Writer, header, rows)
}

func printJSON(w io.Writer, msg proto.Message) error {
	raw, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(msg)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	_, err = fmt.Fprintf(w, "%s\n", raw)
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
