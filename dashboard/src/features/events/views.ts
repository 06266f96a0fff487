// The views of the Events page, as the address names them.

export const VIEWS = [
  { name: "failed", title: "Failed events", scope: "events:read" },
  { name: "session", title: "Sessions", scope: "events:read" },
  { name: "counts", title: "Counts", scope: "events:read" },
  { name: "keys", title: "Keys", scope: "admin" },
] as const;

export type EventsView = (typeof VIEWS)[number];

/** Parameters that belong to one view, and are dropped on the way to another. */
export const NO_FILTERS = {
  code: null,
  category: null,
  name: null,
  untyped: null,
  id: null,
  session: null,
  range: null,
  from: null,
  to: null,
} as const;

/** Return the view of an address; that of failed events by default. */
export function viewOf(address: URLSearchParams): EventsView {
  const name = address.get("view");
  return VIEWS.find((view) => view.name === name) ?? VIEWS[0];
}
