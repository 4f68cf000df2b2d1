// Package resource reads and writes objects as people keep them in files: YAML
// documents with apiVersion, kind, metadata.name and spec.
//
// The schema of a spec is its protobuf message, so that what the admin API takes
// and what a file can say are the same, and a field that is new in one is in the
// other. What a file says that the schema does not know is refused, with file and
// line: a misspelled field that was ignored would leave an access standing that
// its author believes to have taken away. For the same reason nothing may stand
// twice, aliases are not followed, and a scalar is taken only as what it looks
// like. Secrets are in no schema.
package resource
