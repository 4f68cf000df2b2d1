package audit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Origin names a log: "<domain>/agents/<id>/<epoch>", or for the coordinator's
// own acts "<domain>/coordinator/<epoch>". The domain is the trust domain. An
// epoch begins anew at size 0, where the one before was lost or rolled back.
type Origin struct {
	Domain string
	Agent  string // id, empty for the coordinator
	Epoch  uint32
}

func (o Origin) String() string {
	if o.Agent == "" {
		return o.Domain + "/coordinator/" + strconv.FormatUint(uint64(o.Epoch), 10)
	}
	return o.Domain + "/agents/" + o.Agent + "/" + strconv.FormatUint(uint64(o.Epoch), 10)
}

var errOrigin = errors.New("not an origin like domain/agents/id/0 or domain/coordinator/0")

// ParseOrigin reads an origin in its one form.
func ParseOrigin(s string) (Origin, error) {
	parts := strings.Split(s, "/")
	var o Origin
	switch {
	case len(parts) == 4 && parts[1] == "agents" && parts[2] != "":
		o.Agent = parts[2]
	case len(parts) == 3 && parts[1] == "coordinator":
	default:
		return Origin{}, fmt.Errorf("%.120q: %w", s, errOrigin)
	}
	epoch, err := strconv.ParseUint(parts[len(parts)-1], 10, 32)
	o.Domain, o.Epoch = parts[0], uint32(epoch)
	if err != nil || o.Domain == "" || len(s) > 255 || strings.ContainsFunc(s, unfit) || o.String() != s {
		return Origin{}, fmt.Errorf("%.120q: %w", s, errOrigin)
	}
	return o, nil
}

// unfit are characters that a note's key name cannot have, and all that no
// domain or id of ours does.
func unfit(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_' && r != '/'
}
