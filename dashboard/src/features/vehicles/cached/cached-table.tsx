// One page of cached vehicles.
import { formatStamp } from "@/text/stamps";

import type { CachedVehicle } from "./cached";

interface Props {
  vehicles: readonly CachedVehicle[];
  isChanging: boolean;
  /** Whether there is a column to forget vehicles. */
  hasForget: boolean;
  /** Null while another vehicle is being forgotten. */
  onForget: ((vin: string) => void) | null;
}

export function CachedTable({ vehicles, isChanging, hasForget, onForget }: Props) {
  return (
    <div
      className="table-scroll"
      role="region"
      aria-label="Table of cached vehicles, scrolls"
      // Who has only a keyboard scrolls what has the focus.
      // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
      tabIndex={0}
    >
      <table className="vehicle-table" aria-busy={isChanging}>
        <caption className="visually-hidden">Cached vehicles</caption>
        <thead>
          <tr>
            <th scope="col">VIN</th>
            <th scope="col">Vehicle</th>
            <th scope="col">Year</th>
            <th scope="col">Body</th>
            <th scope="col">Decoded (UTC)</th>
            {hasForget && <th scope="col">Action</th>}
          </tr>
        </thead>
        <tbody>
          {vehicles.map((each) => (
            <tr key={`${each.vin} ${each.model_year_hint ?? ""}`}>
              <th scope="row" data-title="VIN">
                <code className="vin">{each.vin}</code>
                {each.model_year_hint !== undefined && (
                  <span className="muted"> with the hint {each.model_year_hint}</span>
                )}
              </th>
              <td data-title="Vehicle">{`${each.make} ${each.model}`.trim()}</td>
              <td data-title="Year">{each.model_year}</td>
              <td data-title="Body">{each.body_class}</td>
              <td data-title="Decoded">{formatStamp(each.fetched_at)}</td>
              {hasForget && (
                <td data-title="">
                  <button
                    type="button"
                    className="button-small"
                    disabled={!onForget}
                    aria-label={`Forget ${each.vin}`}
                    onClick={() => onForget?.(each.vin)}
                  >
                    Forget
                  </button>
                </td>
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
