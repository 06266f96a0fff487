// The pages of the shell. Each is a script of its own, loaded when it is first shown.
import { lazy, type ComponentType } from "react";

export interface Route {
  /** Path below `/dashboard/`; also the last part of the path that the service serves. */
  path: string;
  title: string;
  Content: ComponentType;
}

export const ROUTES: readonly [Route, ...Route[]] = [
  {
    path: "",
    title: "Usage",
    Content: lazy(async () => {
      const { UsagePage } = await import("@/features/usage/usage-page");
      return { default: UsagePage };
    }),
  },
  {
    path: "events",
    title: "Events",
    Content: lazy(async () => {
      const { EventsPage } = await import("@/features/events/events-page");
      return { default: EventsPage };
    }),
  },
  {
    path: "vehicles",
    title: "Vehicles",
    Content: lazy(async () => {
      const { VehiclesPage } = await import("@/features/vehicles/vehicles-page");
      return { default: VehiclesPage };
    }),
  },
];

export const BASE = import.meta.env.BASE_URL;

/** Return the route of a path of the address; the first one for an unknown path. */
export function routeOf(pathname: string): Route {
  const path = pathname.startsWith(BASE) ? pathname.slice(BASE.length) : "";
  return ROUTES.find((route) => route.path === path) ?? ROUTES[0];
}
