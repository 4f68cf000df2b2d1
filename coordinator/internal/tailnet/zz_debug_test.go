package tailnet

import (
	"fmt"
	"os"
	"strings"
	"time"
)

func debugLogf(name string) func(string, ...any) {
	return func(f string, a ...any) {
		s := fmt.Sprintf(f, a...)
		if strings.Contains(s, "netcheck") {
			return
		}
		if os.Getenv("DBG") == "" {
return
}
fmt.Fprintln(os.Stderr, time.Now().Format("05.000"), name, s)
	}
}

func init() { greetingTook = func(d time.Duration) { fmt.Fprintln(os.Stderr, time.Now().Format("05.000"), "greeting took", d) } }
