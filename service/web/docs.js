// Starts Swagger UI with the document of this service.
"use strict";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const followScheme = () =>
  document.documentElement.classList.toggle("dark-mode", dark.matches);
followScheme();
dark.addEventListener("change", followScheme);

// The key is entered once in a tab. Swagger UI itself would store it until somebody
// removes it, also for the next person at this computer.
const KEPT = "authorized";
function keepKey() {
  const kept = window.sessionStorage.getItem(KEPT);
  if (kept !== null) ui.authActions.restoreAuthorization({ authorized: JSON.parse(kept) });
  ui.getStore().subscribe(() => {
    const authorized = JSON.stringify(ui.authSelectors.authorized());
    window.sessionStorage.setItem(KEPT, authorized);
  });
}

const ui = SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  domNode: document.getElementById("swagger-ui"),
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  onComplete: keepKey,
  showExtensions: true,
  tryItOutEnabled: true,
  // Otherwise a badge would send the document's address to another server.
  validatorUrl: "none",
});
