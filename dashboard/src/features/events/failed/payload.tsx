// The event as it was sent, its failing places marked, beside the list of its errors.
import { useMemo, useState } from "react";

import { CodeBlock } from "@/components/code-block";

import type { EventError } from "./failed-events";
import { aroundErrors, toLines, type PayloadLine } from "./payload-lines";

/** Up to so many lines, an event is shown whole. */
const WHOLE_LINES = 60;
const LINES_AROUND = 6;

interface Props {
  event: unknown;
  errors: readonly EventError[];
}

export function Payload({ event, errors }: Props) {
  const lines = useMemo(() => toLines(event, errors), [event, errors]);
  const [isWhole, setIsWhole] = useState(lines.length <= WHOLE_LINES);
  const shown = isWhole ? lines : aroundErrors(lines, LINES_AROUND);
  return (
    <div className="payload">
      <ol className="payload-errors" aria-label="Errors">
        {errors.map((error) => (
          <li key={`${error.code} ${error.path} ${error.message}`}>
            <p>{error.message}</p>
            <p className="muted">
              <code>{error.code}</code> at{" "}
              <code>{error.path === "" ? "the whole event" : error.path}</code>
            </p>
          </li>
        ))}
      </ol>
      <div className="payload-text">
        <CodeBlock label="The event as it was sent">
          {typeof event === "string"
            ? event
            : shown.map((line, at) => <Line key={at} line={line} />)}
        </CodeBlock>
        {!isWhole && (
          <button type="button" onClick={() => setIsWhole(true)}>
            Show all {lines.length} lines
          </button>
        )}
      </div>
    </div>
  );
}

function Line({ line }: { line: PayloadLine | null }) {
  if (!line) return <span className="payload-line muted">⋮</span>;
  const text = "  ".repeat(line.depth) + line.text;
  if (line.errors.length === 0) return <span className="payload-line">{text}</span>;
  return (
    <mark className="payload-line payload-line-wrong">
      {text}
      <span className="payload-note">
        {"  ".repeat(line.depth)}▲{" "}
        {line.errors.map((error) => error.message).join("; ")}
      </span>
    </mark>
  );
}
