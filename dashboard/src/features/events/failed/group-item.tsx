// One group of failed events in the list.
import type { GoTo } from "@/address/use-address";
import { AddressLink } from "@/components/views";
import { countOf } from "@/text/credits";
import { formatStamp } from "@/text/stamps";

import { errorWords } from "./error-words";
import type { FailedGroup } from "./failed-events";

interface Props {
  group: FailedGroup;
  onGo: GoTo;
}

export function GroupItem({ group, onGo }: Props) {
  const { code, category, name, events, first, last } = group;
  const [from, to] = [formatStamp(first), formatStamp(last)];
  const isUntyped = category === null || name === null;
  const change = isUntyped
    ? { code, untyped: "true", category: null, name: null }
    : { code, category, name, untyped: null };
  return (
    <li className="group-item">
      <p className="group-count">{countOf(events, "event")}</p>
      <p className="group-title">
        <AddressLink change={change} onGo={onGo} detail={isUntyped ? "" : name}>
          {errorWords(code).title}
        </AddressLink>{" "}
        <code>{code}</code>
      </p>
      <p className="group-type">
        {isUntyped ? (
          "The type could not be read"
        ) : (
          <TypeName {...{ category, name }} />
        )}
      </p>
      <p className="muted">
        {from === to ? `Arrived ${from} UTC` : `Arrived ${from} to ${to} UTC`}
      </p>
    </li>
  );
}

/** A type of events: its category and its name. */
export function TypeName({ category, name }: { category: string; name: string }) {
  return (
    <>
      <bdi>{category}</bdi> / <bdi>{name}</bdi>
    </>
  );
}
