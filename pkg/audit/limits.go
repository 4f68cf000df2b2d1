package audit

// Bounds of one Append call. An agent keeps to them and the coordinator refuses
// what is beyond.
const (
	MaxAppendBytes   = 1 << 20
	MaxAppendRecords = 2048
)
