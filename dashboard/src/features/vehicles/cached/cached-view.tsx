// The cached vehicles: search, forget, export.
import { useId, useState } from "react";

import { ApiError } from "@/api/client";
import type { GoTo } from "@/address/use-address";
import { Pager } from "@/components/pager";
import { ProblemNotice } from "@/components/problem-notice";
import { useCursors } from "@/components/use-cursors";
import { permits, useSession } from "@/session/session";
import { SignInForm } from "@/session/sign-in-form";

import { PAGE_SIZE, useCached, useForget, type CachedFilter } from "./cached";
import { CachedSearch } from "./cached-search";
import { CachedTable } from "./cached-table";

interface Props {
  address: URLSearchParams;
  onGo: GoTo;
}

export function CachedView({ address, onGo }: Props) {
  const filter: CachedFilter = {
    vin: address.get("vin"),
    make: address.get("make"),
    model: address.get("model"),
    year: address.get("year"),
  };
  const cursors = useCursors(JSON.stringify(filter));
  const { data, error, refetch, isPlaceholderData } = useCached(
    filter,
    cursors.current,
  );
  const { data: state } = useSession();
  const forget = useForget();
  const [isSigningIn, setIsSigningIn] = useState(false);
  const id = useId();
  const session = state?.session ?? null;
  const mayForget = session !== null && permits(session, "vehicles:manage");
  const needsKey = error instanceof ApiError && error.problem.code === "unauthorized";
  if (needsKey) return <SignInForm why={state?.why ?? "never"} scope="vehicles:read" />;
  const items = data?.items ?? [];
  const first = cursors.page * PAGE_SIZE;
  return (
    <>
      <CachedSearch key={JSON.stringify(filter)} filter={filter} onGo={onGo} />
      <section className="card" aria-labelledby={`${id}-title`}>
        <div className="section-head">
          <h2 id={`${id}-title`}>Cached vehicles, newest first</h2>
          <a className="button" href="/vehicles/export" download="vehicles.parquet">
            Export all (Parquet)
          </a>
        </div>
        {!mayForget && state?.why !== "no-keys" && !isSigningIn && (
          <p className="muted">
            To forget vehicles, you need a key with the scope{" "}
            <code>vehicles:manage</code>.{" "}
            {session ? (
              "Sign out, and sign in with such a key."
            ) : (
              <button type="button" onClick={() => setIsSigningIn(true)}>
                Sign in
              </button>
            )}
          </p>
        )}
        <p role="status" className="muted">
          {forget.data &&
            (forget.data.wasCached
              ? `${forget.data.vin} is forgotten. The next look-up asks vPIC again.`
              : `${forget.data.vin} was not cached any more.`)}
        </p>
        {forget.error && <ProblemNotice error={forget.error} />}
        {error && <ProblemNotice error={error} onRetry={() => void refetch()} />}
        {!data && !error && (
          <p className="empty" role="status">
            Loading vehicles…
          </p>
        )}
        {data && items.length === 0 && (
          <p className="empty" role="status">
            {Object.values(filter).some((value) => value !== null)
              ? "No cached vehicle matches. Values are compared as a whole, the VIN from its beginning."
              : "Nothing is cached yet. Look up a VIN first."}
          </p>
        )}
        {items.length > 0 && (
          <CachedTable
            vehicles={items}
            isChanging={isPlaceholderData}
            onForget={mayForget && !forget.isPending ? forget.mutate : null}
            hasForget={mayForget}
          />
        )}
        <Pager
          label="cached vehicles"
          shown={`Vehicles ${first + 1} to ${first + items.length}`}
          onPrevious={cursors.page > 0 ? cursors.goBack : null}
          onNext={data?.next != null ? () => cursors.goNext(data.next ?? "") : null}
        />
      </section>
      {isSigningIn && !session && (
        <SignInForm why={state?.why ?? "never"} scope="vehicles:manage" />
      )}
    </>
  );
}
