// All API keys, and a form for another one.
import { useState } from "react";

import { Confirm } from "@/components/confirm";
import { ProblemNotice } from "@/components/problem-notice";
import { countOf } from "@/text/credits";
import { formatStamp } from "@/text/stamps";

import { AddKey } from "./add-key";
import { useKeys, useRevokeKey, type Key } from "./keys";

const SHOWN_AT_ONCE = 50;

export function KeysView() {
  const { data, error, refetch } = useKeys();
  const revoke = useRevokeKey();
  const [asked, setAsked] = useState<Key | null>(null);
  const [hasRevoked, setHasRevoked] = useState(false);
  const [shown, setShown] = useState(SHOWN_AT_ONCE);
  const keys = data ?? [];
  const valid = keys.filter((key) => key.revoked_at === null);
  const listed = hasRevoked ? keys : valid;
  return (
    <>
      <AddKey />
      <section className="card" aria-labelledby="keys-title">
        <div className="section-head">
          <h2 id="keys-title">Keys</h2>
          <label className="check">
            <input
              type="checkbox"
              checked={hasRevoked}
              onChange={(event) => setHasRevoked(event.target.checked)}
            />
            Show revoked keys
          </label>
        </div>
        {error && <ProblemNotice error={error} onRetry={() => void refetch()} />}
        {revoke.error && <ProblemNotice error={revoke.error} />}
        {data && (
          <p className="muted" role="status">
            {countOf(valid.length, "valid key")}
          </p>
        )}
        <ul className="key-list">
          {listed.slice(0, shown).map((key) => (
            <li key={key.id} className="key-item">
              <p className="key-name">
                <b>
                  <bdi>{key.name}</bdi>
                </b>{" "}
                <code>{key.id}</code>
              </p>
              <p className="scopes">
                {key.scopes.map((scope) => (
                  <code key={scope}>{scope}</code>
                ))}
              </p>
              <p className="muted">
                Made {formatStamp(key.created_at)} UTC
                {key.rate_per_s !== null && ` · ${key.rate_per_s} requests a second`}
                {key.revoked_at !== null &&
                  ` · revoked ${formatStamp(key.revoked_at)} UTC`}
              </p>
              {key.revoked_at === null && (
                <button
                  type="button"
                  className="button-danger"
                  aria-label={`Revoke the key ${key.id} of ${key.name}`}
                  disabled={revoke.isPending}
                  onClick={() => setAsked(key)}
                >
                  Revoke…
                </button>
              )}
            </li>
          ))}
        </ul>
        {listed.length > shown && (
          <button type="button" onClick={() => setShown(shown + SHOWN_AT_ONCE)}>
            Show {Math.min(SHOWN_AT_ONCE, listed.length - shown)} more
          </button>
        )}
      </section>
      {asked && (
        <Confirm
          title={`Revoke this key of ${asked.name}?`}
          action="Revoke for ever"
          onCancel={() => setAsked(null)}
          onConfirm={() => {
            revoke.mutate(asked.id);
            setAsked(null);
          }}
        >
          <p>
            Everything that uses it is refused within a few seconds, and everybody who
            signed in with it is signed out. A revoked key never becomes valid again.
          </p>
        </Confirm>
      )}
    </>
  );
}
