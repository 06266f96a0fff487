// The results of a look-up as a table, and as a file.
import { useId } from "react";

import { countOf } from "@/text/credits";
import { tableToCsv } from "@/text/csv";
import { saveFile } from "@/text/save-file";

import { doubtfulPositions, notesOf, originOf, type LookedUp } from "./lookup";
import { MarkedVin } from "./marked-vin";

const FILE_NAME = "vehicles.csv";
const HEADER = [
  "vin",
  "make",
  "model",
  "model_year",
  "body_class",
  "source",
  "error",
  "notes",
];

interface Props {
  results: readonly LookedUp[];
  /** Looks those up again that may be found later; null if there are none. */
  onRetry: (() => void) | null;
}

export function Results({ results, onRetry }: Props) {
  const id = useId();
  const found = results.filter((item) => item.error === undefined);
  const doubtful = found.filter((item) => item.warnings !== undefined);
  return (
    <section className="card" aria-labelledby={id}>
      <div className="section-head">
        <h2 id={id}>Results</h2>
        <button
          type="button"
          onClick={() => saveFile(FILE_NAME, toCsv(results), "text/csv;charset=utf-8")}
        >
          Export CSV
        </button>
      </div>
      <p role="status" className="muted">
        {countOf(found.length, "vehicle")} found, {doubtful.length} of them with a
        warning; {results.length - found.length} not found.
      </p>
      {onRetry && (
        <p className="notice">
          vPIC did not answer for some VINs.{" "}
          <button type="button" onClick={onRetry}>
            Look these up again
          </button>
        </p>
      )}
      <div
        className="table-scroll"
        role="region"
        aria-label="Table of results, scrolls"
        // Who has only a keyboard scrolls what has the focus.
        // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex
        tabIndex={0}
      >
        <table className="vehicle-table">
          <caption className="visually-hidden">Vehicles of the VINs</caption>
          <thead>
            <tr>
              <th scope="col">VIN</th>
              <th scope="col">Vehicle</th>
              <th scope="col">Year</th>
              <th scope="col">Body</th>
              <th scope="col">From</th>
              <th scope="col">Notes</th>
            </tr>
          </thead>
          <tbody>
            {results.map((item, at) => (
              <ResultRow key={`${at} ${item.vin}`} item={item} />
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function ResultRow({ item }: { item: LookedUp }) {
  const notes = notesOf(item);
  const isError = item.error !== undefined;
  return (
    <tr className={isError ? "is-error" : undefined}>
      <th scope="row" data-title="VIN">
        <MarkedVin vin={item.vin} marked={doubtfulPositions(item)} />
      </th>
      <td data-title="Vehicle">{[item.make, item.model].join(" ").trim() || null}</td>
      <td data-title="Year">{item.model_year || null}</td>
      <td data-title="Body">{item.body_class || null}</td>
      <td data-title="From">{originOf(item) || null}</td>
      <td data-title="Notes">
        {notes.length > 0 && (
          <ul className="notes">
            {notes.map((note) => (
              <li key={note}>{note}</li>
            ))}
          </ul>
        )}
      </td>
    </tr>
  );
}

function toCsv(results: readonly LookedUp[]): string {
  const rows = results.map((item) => [
    item.vin,
    item.make ?? "",
    item.model ?? "",
    item.model_year ?? "",
    item.body_class ?? "",
    originOf(item),
    item.error ?? "",
    notesOf(item).join("; "),
  ]);
  return tableToCsv([HEADER, ...rows]);
}
