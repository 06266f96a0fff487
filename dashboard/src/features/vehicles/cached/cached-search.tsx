// The search among cached vehicles.
import { useId, useState, type SyntheticEvent } from "react";

import type { AddressChange, GoTo } from "@/address/use-address";

import type { CachedFilter } from "./cached";

const FIELDS = [
  { name: "vin", label: "VIN begins with", max: 17 },
  { name: "make", label: "Make", max: 100 },
  { name: "model", label: "Model", max: 100 },
  { name: "year", label: "Model year", max: 4 },
] as const;
const NO_FILTER = { vin: null, make: null, model: null, year: null };

interface Props {
  filter: CachedFilter;
  onGo: GoTo;
}

export function CachedSearch({ filter, onGo }: Props) {
  const [values, setValues] = useState(filter);
  const id = useId();
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    const wanted = FIELDS.map(({ name }) => [name, values[name]?.trim() || null]);
    onGo(Object.fromEntries(wanted) as AddressChange);
  };
  const isFiltered = Object.values(filter).some((value) => value !== null);
  return (
    <form
      className="card filters"
      role="search"
      aria-label="Cached vehicles"
      onSubmit={submit}
    >
      {FIELDS.map(({ name, label, max }) => (
        <div className="filter" key={name}>
          <label htmlFor={`${id}-${name}`}>{label}</label>
          <input
            id={`${id}-${name}`}
            type="text"
            autoComplete="off"
            spellCheck={false}
            maxLength={max}
            value={values[name] ?? ""}
            onChange={(event) => setValues({ ...values, [name]: event.target.value })}
          />
        </div>
      ))}
      <button type="submit" className="button-primary">
        Search
      </button>
      {isFiltered && (
        <button type="button" onClick={() => onGo(NO_FILTER)}>
          Show all
        </button>
      )}
    </form>
  );
}
