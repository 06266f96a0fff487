// The shell: navigation, and the page that the address names.
import { Suspense, useEffect, useState } from "react";

import { ErrorBoundary } from "@/components/error-boundary";
import { Page } from "@/components/page";

import { Navigation } from "./navigation";
import { useRoute } from "./use-route";

export function App() {
  const [route, go] = useRoute();
  // A page that another site embeds has the navigation of that site.
  const [isEmbedded] = useState(
    () => new URLSearchParams(location.search).get("embed") === "1",
  );
  const { path, title, Content } = route;
  useEffect(() => {
    document.title = path === "" ? "Copilot usage" : `${title} – Copilot usage`;
  }, [path, title]);
  return (
    <>
      {!isEmbedded && <Navigation current={route} onGo={go} />}
      {/* Catches a script that cannot be loaded; each page catches its own errors. */}
      <ErrorBoundary key={path}>
        <Suspense
          fallback={<Page title={path === "" ? "Copilot usage" : title}>{null}</Page>}
        >
          <Content />
        </Suspense>
      </ErrorBoundary>
    </>
  );
}
