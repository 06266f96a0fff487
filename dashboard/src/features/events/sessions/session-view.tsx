// A session's timeline: its events in order, and links to those that failed.
import { useId, useState, type SyntheticEvent } from "react";

import { ApiError } from "@/api/client";
import type { GoTo } from "@/address/use-address";
import { Pager } from "@/components/pager";
import { ProblemNotice } from "@/components/problem-notice";
import { AddressLink } from "@/components/views";
import { countOf } from "@/text/credits";
import { formatStamp } from "@/text/stamps";

import { ALL } from "../application";
import { errorWords } from "../failed/error-words";
import { NO_FILTERS } from "../views";
import { useEventSession, useFailedOfSession, type EventSession } from "./session";
import { TimelineItem } from "./timeline-item";

const PAGE_SIZE = 100;

interface Props {
  address: URLSearchParams;
  onGo: GoTo;
}

export function SessionView({ address, onGo }: Props) {
  const session = address.get("session");
  const chosen = address.get("application");
  return (
    <>
      {/* Another address fills the field with another id. */}
      <SessionForm key={session} session={session} onGo={onGo} />
      {session !== null && (
        <Timeline
          key={`${chosen} ${session}`}
          session={session}
          // A session belongs to one application.
          application={chosen === ALL ? null : chosen}
          onGo={onGo}
        />
      )}
    </>
  );
}

function SessionForm({ session, onGo }: { session: string | null; onGo: GoTo }) {
  const [text, setText] = useState(session ?? "");
  const id = useId();
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    if (text.trim() !== "") onGo({ session: text.trim() });
  };
  return (
    <form className="card filter-form" onSubmit={submit}>
      <div className="filter">
        <label htmlFor={id}>Session id</label>
        <input
          id={id}
          type="text"
          spellCheck={false}
          autoComplete="off"
          maxLength={200}
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
      </div>
      <button type="submit" className="button-primary" disabled={text.trim() === ""}>
        Show the session
      </button>
    </form>
  );
}

interface TimelineProps {
  session: string;
  application: string | null;
  onGo: GoTo;
}

function Timeline({ session, application, onGo }: TimelineProps) {
  const { data, error, refetch } = useEventSession(application, session);
  const { data: failed = [] } = useFailedOfSession(application, session);
  const isUnknown = error instanceof ApiError && error.status === 404;
  return (
    <>
      {isUnknown ? (
        <p className="card empty" role="status">
          This application has no accepted event of the session <code>{session}</code>.
        </p>
      ) : (
        error && <ProblemNotice error={error} onRetry={() => void refetch()} />
      )}
      {!data && !error && (
        <p className="empty" role="status">
          Loading the session…
        </p>
      )}
      {failed.length > 0 && (
        <section className="card" aria-labelledby="session-failed">
          <h2 id="session-failed">
            {countOf(failed.length, "event")} of this session failed
          </h2>
          <ul className="plain-list">
            {failed.map((each) => (
              <li key={each.id}>
                {formatStamp(each.received_at)} UTC:{" "}
                <AddressLink
                  change={{ ...NO_FILTERS, view: null, id: each.id }}
                  onGo={onGo}
                >
                  {errorWords(each.errors[0]?.code ?? "").title}
                </AddressLink>
              </li>
            ))}
          </ul>
        </section>
      )}
      {data && <Events session={data} />}
    </>
  );
}

function Events({ session }: { session: EventSession }) {
  const [page, setPage] = useState(0);
  const { first, last, count, events } = session;
  const start = page * PAGE_SIZE;
  const shown = events.slice(start, start + PAGE_SIZE);
  return (
    <section className="card" aria-labelledby="session-title">
      <h2 id="session-title">{countOf(count, "event")}</h2>
      <p className="muted">
        From {formatStamp(first)} to {formatStamp(last)} UTC
        {events.length < count &&
          `. The first ${countOf(events.length, "event")} are listed`}
      </p>
      <ol className="timeline" start={start + 1}>
        {shown.map((event) => (
          <TimelineItem
            key={`${event.id} ${event.received_at}`}
            event={event}
            first={first}
          />
        ))}
      </ol>
      <Pager
        label="events"
        shown={`Events ${start + 1} to ${start + shown.length} of ${events.length}`}
        onPrevious={page > 0 ? () => setPage(page - 1) : null}
        onNext={start + PAGE_SIZE < events.length ? () => setPage(page + 1) : null}
      />
    </section>
  );
}
