// Links between the pages, and one past them for the keyboard.
import type { MouseEvent } from "react";

import { BASE, ROUTES, type Route } from "./routes";

interface Props {
  current: Route;
  onGo: (route: Route) => void;
}

export function Navigation({ current, onGo }: Props) {
  const follow = (event: MouseEvent, route: Route) => {
    // The browser opens new tabs and windows itself.
    if (event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    onGo(route);
  };
  return (
    <div className="shell-bar">
      <a className="skip-link" href="#content">
        Skip to the content
      </a>
      <nav aria-label="Pages">
        <ul>
          {ROUTES.map((route) => (
            <li key={route.path}>
              <a
                href={BASE + route.path}
                aria-current={route === current ? "page" : undefined}
                onClick={(event) => follow(event, route)}
              >
                {route.title}
              </a>
            </li>
          ))}
        </ul>
      </nav>
    </div>
  );
}
