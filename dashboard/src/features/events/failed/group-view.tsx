// One group of failed events: what to do with all of them, and each of them.
import { useId, useState } from "react";

import type { GoTo } from "@/address/use-address";
import { Confirm } from "@/components/confirm";
import { Pager } from "@/components/pager";
import { ProblemNotice } from "@/components/problem-notice";
import { useCursors } from "@/components/use-cursors";
import { AddressLink } from "@/components/views";

import { errorWords } from "./error-words";
import { PAGE_SIZE, useFailedPage, type Selection } from "./failed-events";
import { FailedItem } from "./failed-item";
import { TypeName } from "./group-item";
import { RunPanel } from "./run-panel";
import { useRun, type Run } from "./use-run";

const ALL_GROUPS = { code: null, category: null, name: null, untyped: null, id: null };

interface Props {
  selection: Selection;
  mayManage: boolean;
  onGo: GoTo;
}

export function GroupView({ selection, mayManage, onGo }: Props) {
  const cursors = useCursors(JSON.stringify(selection));
  const { data, error, refetch, isPlaceholderData } = useFailedPage(
    selection,
    cursors.current,
  );
  const run = useRun();
  const [isAsking, setIsAsking] = useState(false);
  const id = useId();
  const { code, category, name, isUntyped } = selection;
  const words = code === null ? null : errorWords(code);
  const first = cursors.page * PAGE_SIZE;
  const items = data?.items ?? [];
  const start: Run["start"] = (...choice) => {
    cursors.goFirst();
    run.start(...choice);
  };
  return (
    <section className="card stack" aria-labelledby={`${id}-title`}>
      <p>
        <AddressLink change={ALL_GROUPS} onGo={onGo}>
          All groups
        </AddressLink>
      </p>
      <div>
        <h2 id={`${id}-title`}>{words?.title ?? "A failed event"}</h2>
        {code !== null && (
          <p className="group-type">
            {isUntyped && "The type could not be read"}
            {category !== null && name !== null && (
              <TypeName {...{ category, name }} />
            )}{" "}
            <code>{code}</code>
          </p>
        )}
        {words?.advice && <p>{words.advice}</p>}
      </div>
      {mayManage ? (
        <div className="buttons">
          <button
            type="button"
            className="button-primary"
            disabled={run.isRunning || items.length === 0}
            onClick={() => start("replay", selection)}
          >
            Replay all of this group
          </button>
          <button
            type="button"
            className="button-danger"
            disabled={run.isRunning || items.length === 0}
            onClick={() => setIsAsking(true)}
          >
            Discard all of this group…
          </button>
        </div>
      ) : (
        <p className="muted">
          To replay or discard them, sign in with a key of this application that has the
          scope <code>events:manage</code>.
        </p>
      )}
      {run.state && (
        <RunPanel
          state={run.state}
          onStop={run.stop}
          onContinue={() =>
            run.state && start(run.state.kind, selection, run.state.progress)
          }
        />
      )}
      {isAsking && (
        <Confirm
          title="Discard all events of this group?"
          action="Discard for ever"
          onCancel={() => setIsAsking(false)}
          onConfirm={() => {
            setIsAsking(false);
            start("discard", selection);
          }}
        >
          <p>
            They are deleted for ever, and cannot be replayed any more. An event with
            several errors leaves its other groups too.
          </p>
        </Confirm>
      )}
      {error && <ProblemNotice error={error} onRetry={() => void refetch()} />}
      {!data && !error && (
        <p className="empty" role="status">
          Loading events…
        </p>
      )}
      {data && items.length === 0 && (
        <p className="empty" role="status">
          No failed events are left here.
        </p>
      )}
      <ul className="failed-list" aria-busy={isPlaceholderData}>
        {items.map((item) => (
          <FailedItem
            key={item.id}
            item={item}
            isOpen={selection.id !== null}
            mayManage={mayManage}
            onGo={onGo}
          />
        ))}
      </ul>
      <Pager
        label="failed events"
        shown={`Events ${first + 1} to ${first + items.length}`}
        onPrevious={cursors.page > 0 ? cursors.goBack : null}
        onNext={data?.next != null ? () => cursors.goNext(data.next ?? "") : null}
      />
    </section>
  );
}
