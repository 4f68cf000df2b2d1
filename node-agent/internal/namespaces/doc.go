// Package namespaces follows the labels of a cluster's namespaces, for grants
// that select namespaces by label.
//
// What it tells is complete: the first word comes after a whole list, and one
// word follows another in the order of the cluster's changes. It is told within
// the time that a watch takes, which is milliseconds. While it does not know, it
// says so by telling nothing, and a policy without labels allows nothing by
// them: before the first list, and from the moment at which the apiserver no
// longer lets the agent look. An apiserver that does not answer at all changes
// nothing, since it serves no requests either.
package namespaces
