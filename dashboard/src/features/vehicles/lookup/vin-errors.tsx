// Lines that are no VIN, with the wrong characters marked. They are not sent.
import { countOf } from "@/text/credits";

import { MarkedVin } from "./marked-vin";
import type { Entry } from "./vin";

const SHOWN = 20;
/** A line may be anything; so much of it is enough to find it. */
const SHOWN_CHARACTERS = 40;

export function VinErrors({ entries }: { entries: readonly Entry[] }) {
  if (entries.length === 0) return null;
  return (
    <div className="vin-errors">
      <h3>{countOf(entries.length, "line")} without a VIN, not looked up</h3>
      <ul className="plain-list">
        {entries.slice(0, SHOWN).map((entry) => (
          <li key={entry.line}>
            Line {entry.line}:{" "}
            <MarkedVin
              vin={entry.vin.slice(0, SHOWN_CHARACTERS)}
              marked={entry.wrong}
            />{" "}
            <span className="muted">{entry.error}</span>
          </li>
        ))}
      </ul>
      {entries.length > SHOWN && <p>… and {entries.length - SHOWN} more.</p>}
    </div>
  );
}
