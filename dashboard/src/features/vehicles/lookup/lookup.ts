// A look-up of many VINs, and what its results say.
import { useMutation } from "@tanstack/react-query";
import { useRef } from "react";

import { request } from "@/api/client";
import { toItems } from "@/api/lists";
import type { components } from "@/api/schema";
import { titleOf } from "@/text/problems";

import { warningWords } from "./warning-words";

export type LookedUp = components["schemas"]["BatchItem"];

/** Longer than vPIC and the queue before it may take; the service ends it earlier. */
const TIMEOUT_MS = 60_000;
/** Values of vPIC that show which characters of a VIN are doubtful. */
const FIELDS = ["SuggestedVIN", "PossibleValues"];
/** Codes of VINs that may be found a little later. */
const TEMPORARY = [
  "vehicle_unavailable",
  "vehicle_lookups_full",
  "storage_unavailable",
];

export function useLookup() {
  const controller = useRef<AbortController | null>(null);
  const lookup = useMutation({
    mutationFn: async (vins: readonly string[]) => {
      controller.current = new AbortController();
      const answer = await request("/vehicles/lookup", {
        method: "POST",
        body: { vins, fields: FIELDS },
        signal: controller.current.signal,
        timeoutMs: TIMEOUT_MS,
      });
      return toItems<LookedUp>(answer, "results");
    },
  });
  return { ...lookup, cancel: () => controller.current?.abort() };
}

export function isTemporary(item: LookedUp): boolean {
  return item.error !== undefined && TEMPORARY.includes(item.error);
}

/** Return positions that vPIC doubts, from 0: an exclamation mark in its suggestion. */
export function doubtfulPositions(item: LookedUp): number[] {
  const suggested = item.suggested_vin ?? fieldOf(item, "SuggestedVIN");
  const marked = Array.from(suggested).flatMap((each, at) =>
    each === "!" ? [at] : [],
  );
  const warnings = item.warnings ?? [];
  if (marked.length === 0 && warnings.includes("check_digit")) return [8];
  if (marked.length === 0 && warnings.includes("invalid_model_year_character"))
    return [9];
  return marked;
}

/** Return the notes of a result as sentences: its error, or its doubts. */
export function notesOf(item: LookedUp): string[] {
  if (item.error !== undefined) {
    const detail = item.error === "invalid_vin" ? item.detail : item.error_text;
    return [titleOf(item.error), ...(detail ? [detail] : []), ...possibleOf(item)];
  }
  const notes = (item.warnings ?? []).map(warningWords);
  const years = item.model_year_candidates ?? [];
  if (years.length > 1) notes.push(`The model year may be ${years.join(" or ")}`);
  return [...notes, ...possibleOf(item)];
}

/** Return where a vehicle is from; empty without one. */
export function originOf(item: LookedUp): string {
  if (item.error !== undefined) return "";
  if (item.source === "offline") return "local copy of vPIC";
  return item.cached_result ? "cache" : "vPIC";
}

/** Return the values that fit; `(8:12)` means that position 8 may be 1 or 2. */
function possibleOf(item: LookedUp): string[] {
  const text = item.possible_values ?? fieldOf(item, "PossibleValues");
  const places = [...text.matchAll(/\((\d+):([^)]*)\)/g)].map(
    ([, at = "", values = ""]) => `${at}: ${values}`,
  );
  return places.length > 0 ? [`Possible at position ${places.join("; ")}`] : [];
}

function fieldOf(item: LookedUp, name: string): string {
  const fields: Record<string, unknown> = item.fields ?? {};
  const value = fields[name];
  return typeof value === "string" ? value : "";
}
