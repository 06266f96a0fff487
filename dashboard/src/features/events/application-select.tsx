// Chooses the application whose events are shown, for keys that may read all.
import { useId } from "react";

import type { GoTo } from "@/address/use-address";
import { permits, type Session } from "@/session/session";

import { ALL, useApplications, type Application } from "./application";

interface Props {
  session: Session;
  value: Application;
  onGo: GoTo;
}

export function ApplicationSelect({ session, value, onGo }: Props) {
  const id = useId();
  const mayReadAll = permits(session, "events:read-all");
  const { data: names = [] } = useApplications(mayReadAll);
  if (!mayReadAll) return null;
  const others = names.filter((name) => name !== session.name && name !== ALL);
  const isUnknown = value !== null && value !== ALL && !others.includes(value);
  return (
    <p className="application-select">
      <label htmlFor={id}>Application</label>
      <select
        id={id}
        value={value ?? ""}
        onChange={(event) => onGo({ application: event.target.value || null })}
      >
        <option value="">{session.name} (own)</option>
        {isUnknown && <option value={value}>{value}</option>}
        {others.map((name) => (
          <option key={name} value={name}>
            {name}
          </option>
        ))}
        <option value={ALL}>All applications</option>
      </select>
    </p>
  );
}
