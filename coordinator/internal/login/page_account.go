package login

import "net/http"

// accountView is the page from which a person looks after his own account.
type accountView struct {
	User, DisplayName, Notice string
	SecondFactor              bool
	Leave                     string // form token
}

func (a *App) showAccount(w http.ResponseWriter, _ *http.Request, v visitor) {
	a.pages.render(w, http.StatusOK, "account", "Your account", accountView{
		User: v.user.Name, DisplayName: v.user.DisplayName, SecondFactor: v.user.SecondFactor, Leave: a.visitToken(v, "leave"),
	})
}
