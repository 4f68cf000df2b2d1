package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// table prints medians over the rounds, and the medians of the ratios within
// each round.
func table(w io.Writer, figures []Figure) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "callers\tpath\trequests/s\tp50 ms\tp99 ms\tof direct\tof plain\t")
	for _, n := range callers {
		for _, p := range paths {
			rate := pick(figures, p, n, perSec)
			fmt.Fprintf(t, "%d\t%s\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", n, p, median(rate),
				median(pick(figures, p, n, p50)), median(pick(figures, p, n, p99)),
				median(over(rate, pick(figures, direct, n, perSec))), median(over(rate, pick(figures, relay, n, perSec))))
		}
	}
	for _, p := range paths {
		took := pick(figures, p, 0, p50)
		fmt.Fprintf(t, "first\t%s\t\t%.2f\t\t%.2f\t%.2f\t\n", p, median(took),
			median(over(took, pick(figures, direct, 0, p50))), median(over(took, pick(figures, relay, 0, p50))))
	}
	return t.Flush()
}

func perSec(f Figure) float64 { return f.PerSec }
func p50(f Figure) float64    { return f.P50 }
func p99(f Figure) float64    { return f.P99 }

// pick is one figure of each round, in the order of the rounds.
func pick(figures []Figure, p path, n int, of func(Figure) float64) []float64 {
	var out []float64
	for _, f := range figures {
		if f.Path == p && f.Callers == n {
			out = append(out, of(f))
		}
	}
	return out
}

func over(a, b []float64) []float64 {
	var out []float64
	for i := range min(len(a), len(b)) {
		out = append(out, a[i]/b[i])
	}
	return out
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
