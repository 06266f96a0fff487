// The parameters of the address, as the state of a page that links can reproduce.
import { useCallback, useEffect, useState } from "react";

/** Values of parameters; null removes one. */
export type AddressChange = Record<string, string | null>;

export type GoTo = (change: AddressChange, how?: "push" | "replace") => void;

/**
 * Return the parameters of the address, and a way to change some of them.
 *
 * A change adds an entry to the history, so that Back undoes it, unless it replaces the
 * present one.
 */
export function useAddress(): [URLSearchParams, GoTo] {
  const [query, setQuery] = useState(() => location.search);
  useEffect(() => {
    const reread = () => setQuery(location.search);
    addEventListener("popstate", reread);
    return () => removeEventListener("popstate", reread);
  }, []);
  const go = useCallback<GoTo>((change, how = "push") => {
    const next = queryWith(location.search, change);
    const address = location.pathname + next;
    if (how === "push") history.pushState(null, "", address);
    else history.replaceState(history.state, "", address);
    setQuery(next);
  }, []);
  return [new URLSearchParams(query), go];
}

/** Return a query with changed parameters; empty without any. */
export function queryWith(query: string, change: AddressChange): string {
  const parameters = new URLSearchParams(query);
  for (const [name, value] of Object.entries(change)) {
    if (value === null) parameters.delete(name);
    else parameters.set(name, value.toWellFormed());
  }
  const text = parameters.toString();
  return text === "" ? "" : `?${text}`;
}
