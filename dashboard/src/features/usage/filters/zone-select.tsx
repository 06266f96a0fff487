// The time zone of days and times.
import { memo, useId } from "react";

import { browserZone } from "@/text/zones";

interface Props {
  zone: string;
  onChoose: (zone: string) => void;
}

/** The browser lists neither UTC nor all aliases. */
const ZONES = [
  ...new Set(["UTC", browserZone(), ...Intl.supportedValuesOf("timeZone")]),
];

export function ZoneSelect({ zone, onChoose }: Props) {
  const id = useId();
  return (
    <div className="filter">
      <label htmlFor={id}>Time zone</label>
      <select id={id} value={zone} onChange={({ target }) => onChoose(target.value)}>
        {!ZONES.includes(zone) && <option value={zone}>{zone}</option>}
        <ZoneOptions />
      </select>
    </div>
  );
}

/** Hundreds of options, which no other choice draws again. */
const ZoneOptions = memo(function ZoneOptions() {
  return ZONES.map((name) => (
    <option key={name} value={name}>
      {name.replaceAll("_", " ")}
    </option>
  ));
});
