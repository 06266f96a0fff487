// The form for a new key, and its secret, which is shown once.
import { useId, useState, type SyntheticEvent } from "react";

import { ProblemNotice } from "@/components/problem-notice";

import { SCOPES, useAddKey, type CreatedKey, type Scope } from "./keys";

export function AddKey() {
  const add = useAddKey();
  if (add.data) return <Secret created={add.data} onClose={() => add.reset()} />;
  return (
    <KeyForm
      isPending={add.isPending}
      error={add.error}
      onAdd={(name, scopes, ratePerS) => add.mutate({ name, scopes, ratePerS })}
    />
  );
}

interface FormProps {
  isPending: boolean;
  error: Error | null;
  onAdd: (name: string, scopes: Scope[], ratePerS: number | null) => void;
}

function KeyForm({ isPending, error, onAdd }: FormProps) {
  const [name, setName] = useState("");
  const [rate, setRate] = useState("");
  const [scopes, setScopes] = useState<ReadonlySet<Scope>>(new Set(["events:write"]));
  const id = useId();
  const ratePerS = rate === "" ? null : Number(rate);
  const isRateWrong = ratePerS !== null && !(ratePerS > 0 && ratePerS <= 1_000_000);
  const isReady = name.trim() !== "" && scopes.size > 0 && !isRateWrong && !isPending;
  const toggle = (scope: Scope, isOn: boolean) => {
    const next = new Set(scopes);
    if (isOn) next.add(scope);
    else next.delete(scope);
    setScopes(next);
  };
  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    const chosen = SCOPES.map((scope) => scope.name).filter((each) => scopes.has(each));
    if (isReady) onAdd(name.trim(), chosen, ratePerS);
  };
  return (
    <section className="card" aria-labelledby={`${id}-title`}>
      <h2 id={`${id}-title`}>Add a key</h2>
      <form className="key-form" onSubmit={submit}>
        <div className="filter">
          <label htmlFor={`${id}-name`}>Application</label>
          <input
            id={`${id}-name`}
            type="text"
            autoComplete="off"
            maxLength={200}
            value={name}
            onChange={(event) => setName(event.target.value)}
          />
        </div>
        <div className="filter">
          <label htmlFor={`${id}-rate`}>Requests a second (optional)</label>
          <input
            id={`${id}-rate`}
            type="number"
            min="0.01"
            max="1000000"
            step="any"
            value={rate}
            aria-invalid={isRateWrong}
            onChange={(event) => setRate(event.target.value)}
          />
        </div>
        <fieldset>
          <legend>The key may</legend>
          {SCOPES.map((scope) => (
            <label key={scope.name} className="check">
              <input
                type="checkbox"
                checked={scopes.has(scope.name)}
                onChange={(event) => toggle(scope.name, event.target.checked)}
              />
              <span>
                {scope.title} <code>{scope.name}</code>
              </span>
            </label>
          ))}
        </fieldset>
        <button type="submit" className="button-primary" disabled={!isReady}>
          {isPending ? "Adding…" : "Add the key"}
        </button>
      </form>
      {error && <ProblemNotice error={error} />}
    </section>
  );
}

interface SecretProps {
  created: CreatedKey;
  onClose: () => void;
}

function Secret({ created, onClose }: SecretProps) {
  const [isCopied, setIsCopied] = useState(false);
  const copy = () => {
    // Without permission, people select the text themselves.
    void navigator.clipboard.writeText(created.key).then(
      () => setIsCopied(true),
      () => setIsCopied(false),
    );
  };
  return (
    <section className="card secret" aria-labelledby="secret-title">
      <h2 id="secret-title">The key of {created.name}</h2>
      <p role="status">
        Store it now. It is shown only this once, and nobody can read it again.
      </p>
      <p>
        <code className="secret-text">{created.key}</code>
      </p>
      <div className="buttons">
        {/* Browsers have no clipboard for pages from plain http. */}
        {"clipboard" in navigator && (
          <button type="button" className="button-primary" onClick={copy}>
            {isCopied ? "Copied" : "Copy"}
          </button>
        )}
        <button type="button" onClick={onClose}>
          I have stored it
        </button>
      </div>
    </section>
  );
}
