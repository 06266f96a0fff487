// Failed events: the groups, or one of them.
import type { GoTo } from "@/address/use-address";
import { permits, type Session } from "@/session/session";

import type { Selection } from "./failed-events";
import { GroupList } from "./group-list";
import { GroupView } from "./group-view";

interface Props {
  session: Session;
  address: URLSearchParams;
  onGo: GoTo;
}

export function FailedView({ session, address, onGo }: Props) {
  const selection: Selection = {
    application: address.get("application"),
    code: address.get("code"),
    category: address.get("category"),
    name: address.get("name"),
    isUntyped: address.get("untyped") === "true",
    id: address.get("id"),
  };
  if (selection.code === null && selection.id === null) {
    return <GroupList application={selection.application} onGo={onGo} />;
  }
  return (
    <GroupView
      // Another group has a list and a run of its own.
      key={JSON.stringify(selection)}
      selection={selection}
      mayManage={permits(session, "events:manage")}
      onGo={onGo}
    />
  );
}
