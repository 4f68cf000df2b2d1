package dev

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// postgres is a throw-away PostgreSQL for one Hydra.
type postgres struct {
	bin  string // directory of its programs
	data string
	// as is the user it runs as; nil for our own. It refuses to run as root.
	as *syscall.Credential
}

const databaseUser = "hydra"

// findPostgres looks for PostgreSQL's programs in PATH and where distributions put them,
// newest first. A data directory of an earlier start stays where it is and decides the version.
func (c Config) findPostgres(data string) (*postgres, error) {
	p := &postgres{data: data}
	if os.Geteuid() == 0 {
		u, err := unprivileged()
		if err != nil {
			return nil, err
		}
		p.as = u
	}
	if p.data == "" {
		p.data = c.dataDir(p.as)
	}
	if err := p.checkOwner(); err != nil {
		return nil, err
	}
	want, err := os.ReadFile(filepath.Join(p.data, "PG_VERSION"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading database version: %w", err)
	}
	version := strings.TrimSpace(string(want))
	for _, bin := range programDirs() {
		if !executable(filepath.Join(bin, "postgres")) || !executable(filepath.Join(bin, "initdb")) {
			continue
		}
		if version != "" && majorVersion(bin) != version {
			continue
		}
		p.bin = bin
		return p, nil
	}
	if version != "" {
		return nil, withHint(fmt.Errorf("no PostgreSQL %s is installed, which made %s", version, p.data),
			"install it, or remove the directory")
	}
	return nil, errNoPostgres
}

var errNoPostgres = errors.New("no PostgreSQL is installed")

func programDirs() []string {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",          // Debian, Ubuntu
		"/usr/pgsql-*/bin",                   // Red Hat
		"/opt/homebrew/opt/postgresql@*/bin", // macOS
		"/usr/local/opt/postgresql@*/bin",
	} {
		found, _ := filepath.Glob(pattern)
		slices.Sort(found)
		slices.Reverse(found)
		dirs = append(dirs, found...)
	}
	return dirs
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// majorVersion is 15 for "postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)".
func majorVersion(bin string) string {
	out, err := exec.Command(filepath.Join(bin, "postgres"), "--version").Output()
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(out))
	if len(fields) < 3 {
		return ""
	}
	major, _, _ := strings.Cut(fields[2], ".")
	return major
}

func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 != nil || err2 != nil || uid == 0 {
			continue
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, withHint(errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody"),
		"run as another user")
}

// dataDir is Dir/postgres, unless the server's user cannot get there or the socket in it would
// have too long a name; then it is a directory under /var/tmp named after Dir.
func (c Config) dataDir(as *syscall.Credential) string {
	dir := c.path("postgres")
	if len(filepath.Join(dir, ".s.PGSQL.5432.lock")) <= maxSocketPath && (as == nil || othersMayPass(c.Dir)) {
		return dir
	}
	return filepath.Join("/var/tmp", fmt.Sprintf("sallyport-hydra-%x", sha256.Sum256([]byte(c.Dir)))[:32])
}

// checkOwner refuses a data directory, or a link to one, that somebody else put in our place:
// everybody may make files in /var/tmp.
func (p *postgres) checkOwner() error {
	info, err := os.Lstat(p.data)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at database directory: %w", err)
	}
	owner := uint32(os.Geteuid())
	if p.as != nil {
		owner = p.as.Uid
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || stat.Uid != owner || info.Mode().Perm() != 0o700 {
		return withHint(fmt.Errorf("%s is not a directory of the database's user alone", p.data), "remove it")
	}
	return nil
}

func othersMayPass(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

func (p *postgres) dsn() string {
	q := url.Values{"host": {p.data}, "sslmode": {"disable"}, "max_conns": {"20"}}
	return (&url.URL{Scheme: "postgres", User: url.User(databaseUser), Path: "/postgres", RawQuery: q.Encode()}).String()
}

// init makes the database cluster once. One that was interrupted has another name.
func (p *postgres) init(ctx context.Context, c Config) error {
	if _, err := os.Stat(filepath.Join(p.data, "PG_VERSION")); err == nil {
		return nil
	}
	unfinished := p.data + ".new"
	for _, dir := range []string{unfinished, p.data} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("removing unfinished database: %w", err)
		}
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return fmt.Errorf("making database directory: %w", err)
	}
	if p.as != nil {
		if err := os.Chown(unfinished, int(p.as.Uid), int(p.as.Gid)); err != nil {
			return fmt.Errorf("giving away database directory: %w", err)
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "initdb"), "-D", unfinished, "-U", databaseUser,
		"--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	p.prepare(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("making database: %w\n%s", err, out)
	}
	if err := os.Rename(unfinished, p.data); err != nil {
		return fmt.Errorf("finishing database: %w", err)
	}
	return nil
}

// command starts the server. There is no TCP, and trust is in the mode of the data directory,
// where the socket is. Without fsync the data survives every process but not the machine.
func (p *postgres) command() *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, "postgres"), "-D", p.data)
	for _, setting := range []string{
		"listen_addresses=",
		"unix_socket_directories=" + p.data,
		"unix_socket_permissions=0700",
		"fsync=off",
		"full_page_writes=off",
		"max_connections=40",
		"shared_buffers=16MB",
		"max_wal_size=128MB",
		"jit=off",
		"autovacuum_naptime=10min",
		"logging_collector=off",
	} {
		cmd.Args = append(cmd.Args, "-c", setting)
	}
	p.prepare(cmd)
	return cmd
}

func (p *postgres) prepare(cmd *exec.Cmd) {
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = processAttributes(syscall.SIGQUIT) // an immediate shutdown
	cmd.SysProcAttr.Credential = p.as
}

// clean removes what a killed server left. Only with the components' lock in hand: the process
// id in the file may belong to somebody else by now, and PostgreSQL would refuse to start.
func (p *postgres) clean() error {
	for _, name := range []string{"postmaster.pid", ".s.PGSQL.5432", ".s.PGSQL.5432.lock"} {
		if err := os.RemoveAll(filepath.Join(p.data, name)); err != nil {
			return fmt.Errorf("cleaning up after a killed database: %w", err)
		}
	}
	return nil
}

// ready tells whether the server takes connections: it writes so into its pid file.
func (p *postgres) ready() bool {
	raw, err := os.ReadFile(filepath.Join(p.data, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(raw), "\n")
	return len(lines) >= 8 && strings.TrimSpace(lines[7]) == "ready"
}

const databaseTimeout = time.Minute
