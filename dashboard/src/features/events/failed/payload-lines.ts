// An event as indented lines, with the errors at the lines that they are about.
import { ExactNumber } from "./exact-json";
import type { EventError } from "./failed-events";

export interface PayloadLine {
  /** The JSON Pointer of the value that begins in this line. */
  path: string;
  depth: number;
  text: string;
  errors: EventError[];
}

/** Return the lines of an event; each error is at the nearest value that exists. */
export function toLines(event: unknown, errors: readonly EventError[]): PayloadLine[] {
  const lines: PayloadLine[] = [];
  write(event, { path: "", depth: 0, label: "", end: "" }, lines);
  const byPath = new Map<string, PayloadLine>();
  // The first line of a path is where its value begins; its end has the same path.
  for (const line of lines) {
    if (!byPath.has(line.path)) byPath.set(line.path, line);
  }
  for (const error of errors) lineOf(error.path, byPath)?.errors.push(error);
  return lines;
}

/** Return the lines within a distance of one with an error; null stands for a gap. */
export function aroundErrors(
  lines: readonly PayloadLine[],
  distance: number,
): (PayloadLine | null)[] {
  const isNear = new Set<number>();
  lines.forEach((line, at) => {
    if (line.errors.length === 0) return;
    for (let near = at - distance; near <= at + distance; near += 1) isNear.add(near);
  });
  const shown: (PayloadLine | null)[] = [];
  lines.forEach((line, at) => {
    if (isNear.has(at)) shown.push(line);
    else if (shown.at(-1) !== null) shown.push(null);
  });
  return shown;
}

interface Place {
  path: string;
  depth: number;
  /** What precedes the value: the quoted name of a member. */
  label: string;
  /** What follows it: a comma, or nothing. */
  end: string;
}

function write(value: unknown, place: Place, lines: PayloadLine[]): void {
  const { path, depth, label, end } = place;
  const add = (text: string) => lines.push({ path, depth, text, errors: [] });
  if (!isContainer(value)) {
    add(label + scalar(value) + end);
    return;
  }
  const isArray = Array.isArray(value);
  const [open, close] = isArray ? ["[", "]"] : ["{", "}"];
  const members = Object.entries(value);
  if (members.length === 0) {
    add(label + open + close + end);
    return;
  }
  add(label + open);
  members.forEach(([name, member], at) => {
    const inner: Place = {
      path: `${path}/${escaped(name)}`,
      depth: depth + 1,
      label: isArray ? "" : `${quoted(name)}: `,
      end: at < members.length - 1 ? "," : "",
    };
    write(member, inner, lines);
  });
  add(close + end);
}

function isContainer(value: unknown): value is object {
  return typeof value === "object" && value !== null && !(value instanceof ExactNumber);
}

function scalar(value: unknown): string {
  if (value instanceof ExactNumber) return value.source;
  return typeof value === "string" ? quoted(value) : JSON.stringify(value);
}

/** A text in JSON; characters that would reorder what is shown are escaped. */
function quoted(text: string): string {
  return JSON.stringify(text).replace(
    /\p{Bidi_Control}/gu,
    (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** A name as a part of a JSON Pointer (RFC 6901). */
function escaped(name: string): string {
  return name.replaceAll("~", "~0").replaceAll("/", "~1");
}

function lineOf(
  path: string,
  byPath: ReadonlyMap<string, PayloadLine>,
): PayloadLine | undefined {
  let known = path;
  while (known !== "" && !byPath.has(known))
    known = known.slice(0, known.lastIndexOf("/"));
  return byPath.get(known);
}
