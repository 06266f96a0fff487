// One failed event: its errors beside its payload, and what to do with it.
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";

import { request } from "@/api/client";
import type { GoTo } from "@/address/use-address";
import { Confirm } from "@/components/confirm";
import { ProblemNotice } from "@/components/problem-notice";
import { AddressLink } from "@/components/views";
import { formatStamp } from "@/text/stamps";

import { NO_FILTERS } from "../views";
import type { FailedEvent } from "./failed-events";
import { Payload } from "./payload";

interface Props {
  item: FailedEvent;
  isOpen: boolean;
  mayManage: boolean;
  onGo: GoTo;
}

export function FailedItem({ item, isOpen, mayManage, onGo }: Props) {
  const [isShown, setIsShown] = useState(isOpen);
  const [isAsking, setIsAsking] = useState(false);
  const change = useChange(item);
  const session = textOf(item.event, "session_id");
  const ownId = textOf(item.event, "id");
  const messages = item.errors.map((error) => error.message).join("; ");
  return (
    <li className="failed-item">
      <button
        type="button"
        className="failed-opener"
        aria-expanded={isShown}
        onClick={() => setIsShown(!isShown)}
      >
        <span className="row-chevron" aria-hidden="true" />
        <span>{formatStamp(item.received_at)}</span>
        <span className="failed-message">{messages}</span>
      </button>
      {isShown && (
        <div className="failed-details stack">
          <dl className="facts">
            <Fact name="Application">{item.application}</Fact>
            {ownId !== null && <Fact name="Event id">{ownId}</Fact>}
            {session !== null && (
              <Fact name="Session">
                <AddressLink
                  change={{ ...NO_FILTERS, view: "session", session }}
                  onGo={onGo}
                >
                  {session}
                </AddressLink>
              </Fact>
            )}
            {item.format !== undefined && <Fact name="Format">{item.format}</Fact>}
            {item.corrected_timestamp !== undefined && (
              <Fact name="Corrected time">{item.corrected_timestamp}</Fact>
            )}
          </dl>
          <Payload event={item.event} errors={item.errors} />
          {mayManage && (
            <div className="buttons">
              <button
                type="button"
                disabled={change.isPending}
                onClick={() => change.mutate("replay")}
              >
                Replay this event
              </button>
              <button
                type="button"
                className="button-danger"
                disabled={change.isPending}
                onClick={() => setIsAsking(true)}
              >
                Discard this event…
              </button>
            </div>
          )}
          {change.error && <ProblemNotice error={change.error} />}
          {isAsking && (
            <Confirm
              title="Discard this event?"
              action="Discard for ever"
              onCancel={() => setIsAsking(false)}
              onConfirm={() => {
                setIsAsking(false);
                change.mutate("discard");
              }}
            >
              <p>It is deleted for ever, and cannot be replayed any more.</p>
            </Confirm>
          )}
        </div>
      )}
    </li>
  );
}

function Fact({ name, children }: { name: string; children: React.ReactNode }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function useChange({ id, application }: FailedEvent) {
  const client = useQueryClient();
  return useMutation({
    mutationFn: (kind: "replay" | "discard") => {
      const signal = AbortSignal.timeout(30_000);
      if (kind === "discard") {
        const body = { id, application };
        return request("/events/failed/discard", { method: "POST", body, signal });
      }
      const path = `/events/failed/${encodeURIComponent(id)}/replay`;
      const parameters = { application };
      return request(path, { method: "POST", parameters, signal });
    },
    onSuccess: () => client.invalidateQueries({ queryKey: ["failed"] }),
  });
}

/** Return a text of an event that may have any form. */
function textOf(event: unknown, name: string): string | null {
  if (typeof event !== "object" || event === null) return null;
  const value: unknown = Object.entries(event).find(([key]) => key === name)?.[1];
  return typeof value === "string" && value !== "" ? value : null;
}
