package play

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Person is somebody with a device: a SALLYPORT_HOME and a kubeconfig.
type Person struct {
	Name     string
	Password string
	Home     string
	Daemon   *Process
	// Prefix comes before every command of this person's, such as one that enters a
	// network namespace.
	Prefix []string

	w *World
}

// Person is that person on this machine, from an earlier start or new.
func (w *World) Person(name string) (*Person, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p, ok := w.People[name]; ok {
		return p, nil
	}
	p := &Person{Name: name, Home: filepath.Join(w.Dir, "people", name), w: w}
	if err := os.MkdirAll(p.Home, 0o700); err != nil {
		return nil, err
	}
	var err error
	if p.Password, err = secret(filepath.Join(w.Dir, "people", name+".password")); err != nil {
		return nil, err
	}
	w.People[name] = p
	return p, nil
}

// Env is the environment that a shell of this person has.
func (p *Person) Env() []string {
	return append(p.w.OverlayEnv(),
		"SALLYPORT_HOME="+p.Home,
		"KUBECONFIG="+filepath.Join(p.Home, "kubeconfig"),
		"PATH="+p.w.Bin+string(os.PathListSeparator)+filepath.Dir(p.w.Kubectl)+string(os.PathListSeparator)+os.Getenv("PATH"),
	)
}

func (p *Person) run(ctx context.Context, env []string, stdin, program string, args ...string) (Result, error) {
	line := append(slices.Clone(p.Prefix), append([]string{program}, args...)...)
	return run(ctx, append(p.Env(), env...), []byte(stdin), line[0], line[1:]...)
}

// Run runs one of our binaries as this person.
func (p *Person) Run(ctx context.Context, program string, args ...string) (Result, error) {
	return p.run(ctx, nil, "", p.w.bin(program), args...)
}

// RunIn is Run with something on standard input.
func (p *Person) RunIn(ctx context.Context, stdin, program string, args ...string) (Result, error) {
	return p.run(ctx, nil, stdin, p.w.bin(program), args...)
}

// KubectlWith is Kubectl with more in its environment.
func (p *Person) KubectlWith(ctx context.Context, env []string, args ...string) (Result, error) {
	return p.run(ctx, env, "", p.w.Kubectl, args...)
}

// Kubectl runs plain kubectl as this person.
func (p *Person) Kubectl(ctx context.Context, args ...string) (Result, error) {
	return p.run(ctx, nil, "", p.w.Kubectl, args...)
}

// KubectlIn is Kubectl with something on standard input.
func (p *Person) KubectlIn(ctx context.Context, stdin string, args ...string) (Result, error) {
	return p.run(ctx, nil, stdin, p.w.Kubectl, args...)
}

// Start starts kubectl and leaves it running, its output in a file.
func (p *Person) Start(name string, args ...string) (*Process, error) {
	line := append(slices.Clone(p.Prefix), append([]string{p.w.Kubectl}, args...)...)
	return Start(p.Name+" "+name, filepath.Join(p.w.Dir, "logs", p.Name+"-"+name+".log"), p.Env(), line[0], line[1:]...)
}

// Login runs `sallyport login` and does in the browser what the person would.
func (p *Person) Login(ctx context.Context, flags ...string) error {
	return p.LoginBy(ctx, func(ctx context.Context, address, _ string) error {
		return submitLogin(ctx, address, p.w.Coordinator.Root, p.Name, p.Password)
	}, append([]string{"--print-url"}, flags...)...)
}

// Enter is what a person does in a browser with what `sallyport login` prints: an
// address, and a code where the login is approved elsewhere.
type Enter func(ctx context.Context, address, code string) error

var codePattern = regexp.MustCompile(`^[A-Z]{4}-[A-Z]{4}$`)

// LoginBy runs `sallyport login` and lets enter do the rest.
func (p *Person) LoginBy(ctx context.Context, enter Enter, flags ...string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.w.bin("sallyport"), append([]string{"login", p.w.Coordinator.Login}, flags...)...)
	cmd.Env = append(os.Environ(), p.Env()...)
	var printed, said strings.Builder
	cmd.Stdout = &printed // written by a goroutine of cmd's until Wait
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(stderr)
	address, code, elsewhere := "", "", slices.Contains(flags, "--no-browser")
	for (address == "" || elsewhere && code == "") && lines.Scan() {
		said.WriteString(lines.Text() + "\n")
		switch line := strings.TrimSpace(lines.Text()); {
		case strings.HasPrefix(line, "https://"):
			address = line
		case codePattern.MatchString(line):
			code = line
		}
	}
	var browser error
	if address == "" {
		browser = errors.New("it printed no address to open")
	} else {
		browser = enter(ctx, address, code)
	}
	if browser != nil {
		cancel() // nobody will come back to the loopback page
	}
	rest, readErr := io.ReadAll(stderr)
	said.Write(rest)
	if err := errors.Join(browser, readErr, cmd.Wait()); err != nil {
		return fmt.Errorf("logging in as %s: %w\n%s%s", p.Name, err, said.String(), printed.String())
	}
	return nil
}

// Up runs the person's daemon until it is joined and its contexts are written.
func (p *Person) Up(ctx context.Context) error {
	d, err := Start("daemon of "+p.Name, filepath.Join(p.w.Dir, "logs", "daemon-"+p.Name+".log"), p.Env(), p.w.bin("sallyport"), "up", "--foreground")
	if err != nil {
		return err
	}
	p.Daemon = d
	return until(ctx, d, func() error {
		_, err := p.Run(ctx, "sallyport", "status")
		return err
	})
}

// Contexts lists the person's kubectl contexts.
func (p *Person) Contexts(ctx context.Context) ([]string, error) {
	r, err := p.Kubectl(ctx, "config", "get-contexts", "-o", "name")
	return strings.Fields(r.Stdout), err
}
