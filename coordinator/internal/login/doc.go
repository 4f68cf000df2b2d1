// Package login is the login and consent application for Ory Hydra: the pages
// on which a person says who he is, and what stands between Hydra and everyone.
//
// Why it is safe:
//
//   - A challenge belongs to one browser. Hydra's answer to /oauth2/auth passes
//     through PublicProxy, which gives that browser, and no other, a cookie for
//     the challenge in it. A page opened elsewhere, from a link in a mail, shows
//     no form.
//   - A challenge is accepted once. Hydra would take a second accept of a used
//     challenge, with another subject. So it is recorded as used in the store, by
//     its decoded bytes, in a transaction before Hydra hears of it: of two that
//     race one wins, and a crash in between costs a login, never grants two.
//   - Where the browser goes next is what Hydra answered, and only if that is at
//     the coordinator's own URL. Nothing from a request is ever a redirect.
//   - A wrong name and a wrong password are one answer, after the same work.
//   - The user is looked at again at every step: at login, at consent, and when
//     the access token is introspected, which carries the auth generation of its
//     login and dies with it. So the cut never waits for Hydra; telling Hydra is
//     an outbox in the store that retries until it has heard.
//   - A device elsewhere is approved by a click on a page that shows it, by
//     somebody who has logged in for this visit, and by nothing else. The approval
//     is for that device's key (docs/decisions/0006).
//   - Somebody who comes through an upstream provider is known by issuer and
//     subject. The answer is good in the browser that left for the provider, once
//     (sealed cookie, state, nonce, PKCE). Groups are what the provider says, at
//     each login and refresh, and its refusal or logout is the next auth
//     generation.
//   - A second factor's codes work once each, and what the store holds of them is
//     sealed with a key that is not in it.
//   - Hydra's admin API is root-equivalent. It is called here and reachable
//     through nothing here: PublicProxy passes a short list of public paths.
//   - Pages need no script and allow none, load nothing from elsewhere, and
//     cannot be framed. Where passkeys are asked for, one script of ours may run:
//     browsers give passkeys to scripts alone.
package login
