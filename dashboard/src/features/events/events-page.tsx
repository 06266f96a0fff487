// The Events page: failed events, sessions, counts and keys.
import { useAddress } from "@/address/use-address";
import { Page } from "@/components/page";
import { Views } from "@/components/views";
import { NeedsScope } from "@/session/needs-scope";
import { useSession, useSessionEnd } from "@/session/session";
import { SessionFacts } from "@/session/session-facts";

import { ApplicationSelect } from "./application-select";
import { CountsView } from "./counts/counts-view";
import { FailedView } from "./failed/failed-view";
import { KeysView } from "./keys/keys-view";
import { SessionView } from "./sessions/session-view";
import { NO_FILTERS, VIEWS, viewOf } from "./views";

import "@/styles/pages.css";
import "./events.css";

export function EventsPage() {
  const { data } = useSession();
  useSessionEnd(data?.session ?? null);
  const [address, go] = useAddress();
  const view = viewOf(address);
  const application = address.get("application");
  const links = VIEWS.map(({ name, title }) => ({
    title,
    change: { ...NO_FILTERS, view: name === "failed" ? null : name },
    isCurrent: name === view.name,
  }));
  return (
    <Page title="Events" facts={<SessionFacts />}>
      <div>
        <Views label="Views of events" links={links} onGo={go} />
        <NeedsScope scope={view.scope}>
          {(session) => (
            <div className="stack">
              {view.name !== "keys" && (
                <ApplicationSelect session={session} value={application} onGo={go} />
              )}
              {view.name === "failed" && (
                <FailedView session={session} address={address} onGo={go} />
              )}
              {view.name === "session" && <SessionView address={address} onGo={go} />}
              {view.name === "counts" && <CountsView address={address} onGo={go} />}
              {view.name === "keys" && <KeysView />}
            </div>
          )}
        </NeedsScope>
      </div>
    </Page>
  );
}
