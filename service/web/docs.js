// Starts Swagger UI with the document of this service.
"use strict";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const followScheme = () =>
  document.documentElement.classList.toggle("dark-mode", dark.matches);
followScheme();
dark.addEventListener("change", followScheme);

SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  domNode: document.getElementById("swagger-ui"),
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  filter: true,
  // The browser keeps the key, so that it is entered once.
  persistAuthorization: true,
  showExtensions: true,
  tryItOutEnabled: true,
  // Otherwise a badge would send the document's address to another server.
  validatorUrl: "none",
});
