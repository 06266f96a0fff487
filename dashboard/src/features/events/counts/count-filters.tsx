// What the counts are about: the time, and one name or category.
import { useId } from "react";

import type { GoTo } from "@/address/use-address";

import { RANGES } from "./range";

interface Props {
  address: URLSearchParams;
  onGo: GoTo;
}

export function CountFilters({ address, onGo }: Props) {
  const id = useId();
  const range = address.get("range") ?? "week";
  const chosen = ["category", "name"].flatMap((name) => {
    const value = address.get(name);
    return value === null ? [] : [{ name, value }];
  });
  return (
    <div className="card filters" role="search" aria-label="Filters of counts">
      <div className="filter">
        <label htmlFor={`${id}-range`}>Time (UTC)</label>
        <select
          id={`${id}-range`}
          value={range}
          onChange={(event) =>
            onGo({ range: event.target.value, from: null, to: null })
          }
        >
          {RANGES.map(({ name, title }) => (
            <option key={name} value={name}>
              {title}
            </option>
          ))}
        </select>
      </div>
      {range === "dates" && (
        <>
          <DayField label="First day" name="from" address={address} onGo={onGo} />
          <DayField label="Last day" name="to" address={address} onGo={onGo} />
        </>
      )}
      {chosen.map(({ name, value }) => (
        <button
          key={name}
          type="button"
          className="filter-chip"
          onClick={() => onGo({ [name]: null })}
        >
          {name}: <bdi>{value}</bdi> <span aria-hidden="true">×</span>
          <span className="visually-hidden">Remove this filter</span>
        </button>
      ))}
    </div>
  );
}

interface DayProps extends Props {
  label: string;
  name: "from" | "to";
}

function DayField({ label, name, address, onGo }: DayProps) {
  const id = useId();
  return (
    <div className="filter">
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        type="date"
        value={address.get(name) ?? ""}
        onChange={(event) => onGo({ [name]: event.target.value || null }, "replace")}
      />
    </div>
  );
}
