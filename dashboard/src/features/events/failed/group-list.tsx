// The groups of failed events, the largest first.
import { useDeferredValue, useId, useState } from "react";

import type { GoTo } from "@/address/use-address";
import { ProblemNotice } from "@/components/problem-notice";
import { countOf } from "@/text/credits";

import type { Application } from "../application";
import { errorWords } from "./error-words";
import { useGroups, type FailedGroup } from "./failed-events";
import { GroupItem } from "./group-item";

const SHOWN_AT_ONCE = 50;

interface Props {
  application: Application;
  onGo: GoTo;
}

export function GroupList({ application, onGo }: Props) {
  const { data, error, refetch, isFetching } = useGroups(application);
  const [search, setSearch] = useState("");
  const [shown, setShown] = useState(SHOWN_AT_ONCE);
  const wanted = useDeferredValue(search);
  const id = useId();
  const retry = () => void refetch();
  if (!data) {
    if (error) return <ProblemNotice error={error} onRetry={retry} />;
    return (
      <p className="empty" role="status">
        Loading failed events…
      </p>
    );
  }
  const { groups, isCut } = data;
  if (groups.length === 0) {
    return (
      <section className="card empty">
        <h2>No failed events</h2>
        <p>
          Every event of this application was accepted, or its failure was resolved.
        </p>
        <button type="button" onClick={retry}>
          Look again
        </button>
      </section>
    );
  }
  const found = groups.filter((group) => matches(group, wanted));
  return (
    <section className="card" aria-labelledby={`${id}-title`}>
      <div className="section-head">
        <h2 id={`${id}-title`}>Failed events by error and type</h2>
        <button type="button" onClick={retry} disabled={isFetching}>
          {isFetching ? "Refreshing…" : "Refresh"}
        </button>
      </div>
      {error && <ProblemNotice error={error} onRetry={retry} />}
      <div className="filter" role="search">
        <label htmlFor={`${id}-search`}>Error or type contains</label>
        <input
          id={`${id}-search`}
          type="search"
          value={search}
          onChange={(event) => {
            setSearch(event.target.value);
            setShown(SHOWN_AT_ONCE);
          }}
        />
        <p className="muted" role="status">
          {countOf(found.length, "group")}
          {isCut && ", and smaller ones that are not listed"}. An event with several
          errors is in a group of each.
        </p>
      </div>
      <ul className="group-list">
        {found.slice(0, shown).map((group) => (
          <GroupItem
            key={JSON.stringify([group.code, group.category, group.name])}
            group={group}
            onGo={onGo}
          />
        ))}
      </ul>
      {found.length > shown && (
        <button type="button" onClick={() => setShown(shown + SHOWN_AT_ONCE)}>
          Show {Math.min(SHOWN_AT_ONCE, found.length - shown)} more
        </button>
      )}
    </section>
  );
}

function matches(group: FailedGroup, search: string): boolean {
  const texts = [group.code, errorWords(group.code).title, group.category, group.name];
  const wanted = search.trim().toLowerCase();
  return texts.some((text) => text?.toLowerCase().includes(wanted));
}
