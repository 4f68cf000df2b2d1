package login

import "net/http"

// accountView is the page from which a person looks after his own account.
type accountView struct {
	User, DisplayName, Notice string
	SecondFactor, HasPassword bool
	Leave                     string // form token
	Links                     []linkView
}

// linkView is a provider, and who the person is there, if linked.
type linkView struct {
	Name, Title, Subject, Token string
}

func (a *App) showAccount(w http.ResponseWriter, _ *http.Request, v visitor) {
	view := accountView{
		User: v.user.Name, DisplayName: v.user.DisplayName, SecondFactor: v.user.SecondFactor, HasPassword: v.user.HasPassword, Leave: a.visitToken(v, "leave"),
	}
	for _, p := range a.cfg.Providers {
		link := linkView{Name: p.Name, Title: p.Title, Token: a.visitToken(v, "link", p.Name)}
		for _, id := range v.user.Identities {
			if id.Issuer == p.Issuer {
				link.Subject = id.Subject
			}
		}
		view.Links = append(view.Links, link)
	}
	a.pages.render(w, http.StatusOK, "account", "Your account", view)
}
