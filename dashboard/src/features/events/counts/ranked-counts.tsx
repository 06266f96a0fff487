// The most frequent values with their numbers; each is a filter.
import { useId } from "react";

import { formatCount } from "@/text/credits";

import type { Counts } from "./counts";

interface Props {
  title: string;
  counts: Counts;
  /** Returns a value in words. */
  nameOf?: (value: string) => string;
  onChoose: (value: string) => void;
}

export function RankedCounts({ title, counts, nameOf = String, onChoose }: Props) {
  const id = useId();
  const { counts: values, other } = counts;
  const max = Math.max(1, ...values.map((each) => each.events));
  if (values.length === 0) return null;
  return (
    <section className="card" aria-labelledby={id}>
      <h2 id={id}>{title}</h2>
      <table className="ranked">
        <thead className="visually-hidden">
          <tr>
            <th scope="col">Value</th>
            <th scope="col">Events</th>
          </tr>
        </thead>
        <tbody>
          {values.map(({ value, events }) => (
            <tr key={value}>
              <th scope="row">
                <button
                  type="button"
                  className="button-link"
                  onClick={() => onChoose(value)}
                >
                  <bdi>{nameOf(value)}</bdi>
                </button>
                <span
                  className="ranked-bar"
                  style={{ inlineSize: `${(100 * events) / max}%` }}
                />
              </th>
              <td>{formatCount(events)}</td>
            </tr>
          ))}
          {other > 0 && (
            <tr>
              <th scope="row">All others</th>
              <td>{formatCount(other)}</td>
            </tr>
          )}
        </tbody>
      </table>
    </section>
  );
}
