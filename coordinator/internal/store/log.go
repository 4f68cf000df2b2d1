package store

import (
	"fmt"
	"log/slog"
	"strings"
)

// badgerLog passes Badger's own messages on, its chatter at debug level.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(f string, a ...any)   { l.log.Error("badger", "message", line(f, a)) }
func (l badgerLog) Warningf(f string, a ...any) { l.log.Warn("badger", "message", line(f, a)) }
func (l badgerLog) Infof(f string, a ...any)    { l.log.Debug("badger", "message", line(f, a)) }
func (l badgerLog) Debugf(f string, a ...any)   { l.log.Debug("badger", "message", line(f, a)) }

func line(f string, a []any) string { return strings.TrimSpace(fmt.Sprintf(f, a...)) }
