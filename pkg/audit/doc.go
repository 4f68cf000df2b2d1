// Package audit is the form of the audit trail, shared by everyone who writes,
// ships, stores or verifies it: what a record is, how records make a tree, and
// how a tree is signed. docs/audit.md says the same for other programs.
//
// Why the log cannot lie rests on three rules kept here:
//
//   - A record is its bytes. The leaf is SHA-256(0x00 ‖ bytes) as in RFC 6962,
//     and the bytes are what is stored, shipped and proved; nobody encodes a
//     record again. Decode is for showing and indexing alone.
//   - A checkpoint is a C2SP signed note over origin, size and root. The key that
//     signs carries the origin as its name, so that a checkpoint of one log can
//     never pass for one of another, nor one epoch's for the next one's.
//   - The coordinator's countersignature (C2SP tlog-cosignature/v1, with the time)
//     is the acknowledgement. Two keys on two machines have then signed the same
//     root, and neither can take a record back alone.
//
// No record can fail to be encoded or be longer than MaxRecord, whatever a client
// sent: that is what lets the agent's log treat every commit error as final.
package audit
