// One event of a timeline; it opens to its data.
import { useMemo } from "react";

import { CodeBlock } from "@/components/code-block";
import { formatStamp } from "@/text/stamps";

import { toLines } from "../failed/payload-lines";
import { formatOffset, type StoredEvent } from "./session";

interface Props {
  event: StoredEvent;
  /** The timestamp of the first event of the session. */
  first: string;
}

export function TimelineItem({ event, first }: Props) {
  const { timestamp, sent_timestamp, category, name, id, data } = event;
  const lines = useMemo(() => toLines(data, []), [data]);
  return (
    <li className="timeline-item">
      <details>
        <summary>
          <span className="timeline-offset">{formatOffset(first, timestamp)}</span>
          <span className="timeline-name">
            <bdi>{name}</bdi>
          </span>
          <span className="muted">
            <bdi>{category}</bdi>
          </span>
          <span className="muted timeline-time">{formatStamp(timestamp)}</span>
        </summary>
        <p className="muted">
          Event id <code>{id}</code>
          {sent_timestamp != null && ` · sent as ${sent_timestamp}`}
        </p>
        <CodeBlock label={`Data of ${name}`}>
          {lines.map((line, at) => (
            <span className="payload-line" key={at}>
              {"  ".repeat(line.depth) + line.text}
            </span>
          ))}
        </CodeBlock>
      </details>
    </li>
  );
}
