// The one script of these pages: browsers give passkeys to scripts alone. A form
// that wants one is hidden until this says that the browser has them; it asks, puts
// the answer into the form, and sends it like any other.
"use strict";
for (const form of document.querySelectorAll("form[data-passkey]")) {
	if (!window.PublicKeyCredential || !PublicKeyCredential.parseRequestOptionsFromJSON) continue;
	form.hidden = false;
	form.addEventListener("submit", async (event) => {
		event.preventDefault();
		const trouble = form.querySelector("[role=alert]");
		trouble.hidden = true;
		try {
			const options = JSON.parse(form.dataset.options).publicKey;
			const credential = form.dataset.passkey === "create"
				? await navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) })
				: await navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options) });
			form.elements.credential.value = JSON.stringify(credential.toJSON());
			form.submit();
		} catch (err) {
			trouble.textContent = err.name === "InvalidStateError"
				? "This passkey is on your account already."
				: "Your browser gave no passkey. You can try again.";
			trouble.hidden = false;
		}
	});
}
