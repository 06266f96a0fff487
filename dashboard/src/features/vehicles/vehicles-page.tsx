// The Vehicles page: look up VINs, and the cached vehicles.
import { useAddress } from "@/address/use-address";
import { Page } from "@/components/page";
import { Views } from "@/components/views";
import { useSession, useSessionEnd } from "@/session/session";
import { SessionFacts } from "@/session/session-facts";

import { CachedView } from "./cached/cached-view";
import { LookupView } from "./lookup/lookup-view";

import "@/styles/pages.css";
import "./vehicles.css";

export function VehiclesPage() {
  const { data } = useSession();
  useSessionEnd(data?.session ?? null);
  const [address, go] = useAddress();
  const isCached = address.get("view") === "cached";
  const links = [
    { title: "Look up", change: { view: null }, isCurrent: !isCached },
    { title: "Cached vehicles", change: { view: "cached" }, isCurrent: isCached },
  ];
  return (
    <Page title="Vehicles" facts={<SessionFacts />}>
      <div>
        <Views label="Views of vehicles" links={links} onGo={go} />
        {isCached ? <CachedView address={address} onGo={go} /> : <LookupView />}
      </div>
    </Page>
  );
}
