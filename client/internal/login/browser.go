package login

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
)

// HasDisplay reports whether a browser could open here.
func HasDisplay() bool {
	return runtime.GOOS == "darwin" || os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "" || os.Getenv("BROWSER") != ""
}

// Browser opens url in the person's browser, as far as there is one.
func Browser(_ context.Context, url string) error {
	var cmd *exec.Cmd
	switch {
	case runtime.GOOS == "darwin":
		cmd = exec.Command("open", url)
	case !HasDisplay():
		return errors.New("there is no display")
	default:
		cmd = exec.Command("xdg-open", url)
	}
	// It outlives this process where the browser does; nobody waits for it.
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("opening a browser: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	return nil
}
