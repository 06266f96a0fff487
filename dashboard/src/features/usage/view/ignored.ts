// The parts of an address that its view does not have, for the person who wrote them.
import { shorten } from "../filters/shorten";
import { parseView, type View } from "./view";

type Check = (view: View, value: string) => boolean;

const isRange: Check = ({ range }) => range !== null;

/** Whether a view has the value that its address gives. */
const CHECKS: readonly [name: string, has: Check][] = [
  ["day", isRange],
  ["from", isRange],
  ["to", isRange],
  ["report", ({ report }, value) => report === value],
  ["plan", ({ plan }, value) => plan === value],
  ["period", ({ period }, value) => period === value],
  ["tz", ({ zone }, value) => zone === value],
  ["by", ({ step }, value) => step === value],
  ["embed", ({ isEmbedded }, value) => isEmbedded || value === "0"],
];

/**
 * Return the parts of a query that are not valid, such as `tz=Mars/Base`.
 *
 * Other names are no mistakes: mail programs and sites add parameters to links.
 */
export function ignoredOf(query: string): string[] {
  const given = new URLSearchParams(query);
  const view = parseView(query);
  const ignored = CHECKS.flatMap(([name, has]) => {
    const value = given.get(name) ?? "";
    return value === "" || has(view, value) ? [] : [`${name}=${shorten(value)}`];
  });
  const pairs = unusedPairs(given.get("sorting") ?? "", view);
  return pairs === "" ? ignored : [...ignored, `sorting=${shorten(pairs)}`];
}

/** The pairs of a column and its direction that a view does not sort by. */
function unusedPairs(sorting: string, view: View): string {
  const used = view.sorting.map((each) => `${each.column}:${each.direction}`);
  const pairs = sorting.split(";").filter((pair) => pair !== "");
  return pairs.filter((pair) => !used.includes(pair)).join(";");
}
