// Package kubeconfig keeps Sallyport's contexts in a kubeconfig file that is the
// person's own.
//
// An entry is ours when its name begins with "sallyport/" and it carries an
// extension named sallyport.io with this home in it. Nothing else is ever
// changed: an entry that somebody made by hand under a name of ours stays as it
// is and is reported, and so is one of another home. The file is edited as text:
// our lines are cut out and put in, so everyone else's stay byte for byte,
// comments too. What comes out is parsed and compared with what went in before it
// is written; where the text is laid out in a way that we cannot edit (JSON, flow
// style, anchors), the YAML tree is edited instead, which keeps meaning and order
// but not spacing. Should the comparison fail even then, nothing is written.
//
// Writing takes kubectl's own lock (<file>.lock), is atomic, and leaves the file
// at 0600, since our entries hold the proxy's password.
package kubeconfig
