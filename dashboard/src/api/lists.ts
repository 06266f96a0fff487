// Pages of lists: their items, and the cursor of the next page.
import { isRecord, unreadable, type JsonAnswer } from "./client";

/** One page; without a cursor it is the last one. */
export interface ListPage<Item> {
  items: Item[];
  next: string | null;
}

/** Return the list of an answer, and the cursor in its `Link`. Throws `ApiError`. */
export function toPage<Item>(answer: JsonAnswer, member: string): ListPage<Item> {
  return { items: toItems<Item>(answer, member), next: nextCursor(answer.headers) };
}

/** Return the objects of a member of an answer. Throws `ApiError`. */
export function toItems<Item>(answer: JsonAnswer, member: string): Item[] {
  const { body } = answer;
  const items: unknown = isRecord(body) ? body[member] : null;
  if (!Array.isArray(items) || !items.every(isRecord)) {
    throw unreadable(answer, `It has no list of ${member}.`);
  }
  // The service and this page are of one build, and its OpenAPI document has the type.
  return items as Item[];
}

/** Return the cursor of the next page; null if there is none. */
export function nextCursor(headers: Headers): string | null {
  const link = /<([^>]*)>\s*;\s*rel="?next"?/i.exec(headers.get("Link") ?? "")?.[1];
  if (link === undefined) return null;
  return new URL(link, location.href).searchParams.get("cursor");
}
