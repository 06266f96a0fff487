// The route of the address, and a way to go to another one without loading the page.
import { useCallback, useEffect, useState } from "react";

import { BASE, routeOf, type Route } from "./routes";

export function useRoute(): [Route, (route: Route) => void] {
  const [route, setRoute] = useState(() => routeOf(location.pathname));
  useEffect(() => {
    const reread = () => setRoute(routeOf(location.pathname));
    addEventListener("popstate", reread);
    return () => removeEventListener("popstate", reread);
  }, []);
  const go = useCallback((next: Route) => {
    history.pushState(null, "", BASE + next.path);
    setRoute(next);
    scrollTo(0, 0);
  }, []);
  return [route, go];
}
